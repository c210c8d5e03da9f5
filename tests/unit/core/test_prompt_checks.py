"""What `prompt: "auto"` of a job means."""

from typing import Any

import pytest

from distill.jobs.prompt_checks import why_full, with_prompts
from distill.spec import CompileSpec, read_spec


def spec(prompt: str = "auto", model: str = "tiny", **more: Any) -> CompileSpec:
    return read_spec({"program_id": "prog-1", "trainset": "ds-1", "lms": {"student": {"model": model, "prompt": prompt}}, **more})


def chosen(spec: CompileSpec) -> tuple[str | None, str]:
    made = with_prompts(spec)
    return made.lms["student"].prompt, made.demos


def test_is_compact_and_drops_the_demos() -> None:
    assert why_full(spec()) is None
    assert chosen(spec()) == chosen(spec("compact")) == ("compact", "drop")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"render": "teacher"}, "the prompts of the teacher"),
        ({"demos": "keep"}, "the demos are kept"),
        ({"model": "sh-earlier"}, "may have been tuned on full prompts"),
    ],
)
def test_is_full_with_a_reason(given: dict[str, Any], reason: str) -> None:
    assert reason in str(why_full(spec(**given)))
    assert chosen(spec(**given))[0] == "full"


def test_compact_keeps_the_demos_that_are_to_be_kept() -> None:
    assert chosen(spec("compact", demos="keep")) == ("compact", "keep")
