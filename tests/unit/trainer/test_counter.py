"""The token counter counts what the trainer will read, without torch, and goes on after its process has ended."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.trainers import CannotCount, LocalTrainer
from engines.base_models import resolve
from engines.schemas import TrainingRow
from tests.support.encoded import encode
from tests.support.server_process import wait_until
from tests.unit.trainer.conftest import make_rows

DEMOS = [{"role": "user", "content": "who is it"}, {"role": "assistant", "content": "human"}]


TOOL = {"type": "function", "function": {"name": "look_up", "description": "Look.", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_0", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "Rome"}'}}
# Of the kind that models with tools have: arguments are an object in it.
TOOL_TEMPLATE = """{% for tool in tools or [] %}<tool>{{ tool.function.name }}</tool>{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}<call>{{ call.function.name }} {{ call.function.arguments.city }}</call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def trainer() -> Iterator[LocalTrainer]:
    trainer = LocalTrainer()
    yield trainer
    trainer.close()


def with_demos(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt": [row["prompt"][0], *DEMOS, *row["prompt"][1:]]}


def test_what_its_process_writes_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """In the form of the log of whoever asks, not past it."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho Unpacking >&2\nread -r question\necho \'{"longest": 7, "rows": []}\'\n')
    python.chmod(0o755)
    caplog.set_level(logging.INFO)
    trainer = LocalTrainer(str(python))
    assert trainer.count("any", "auto", []).longest == 7
    wait_until(lambda: "token counter: Unpacking" in caplog.messages, "the line is not logged")
    trainer.close()
    assert capfd.readouterr().err == ""


class TestCount:
    def test_counts_are_the_trainers_own(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        rows = [*make_rows(5), *(with_demos(row) for row in make_rows(5, seed=1))]
        tokenizer = resolve(str(tiny_model)).load_tokenizer()
        encoded = [encode(TrainingRow.model_validate(row), tokenizer) for row in rows]
        counts = trainer.count(str(tiny_model), "auto", rows)
        assert [(row.prompt, row.completion) for row in counts.rows] == [(each.prompt_length, each.n_targets) for each in encoded]
        assert counts.longest == 2048

    def test_the_longest_row_is_bounded_by_what_was_asked_and_by_the_model(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        assert trainer.count(str(tiny_model), 100, []).longest == 100
        assert trainer.count(str(tiny_model), 100_000, []).longest == 2048

    def test_a_row_that_cannot_be_trained_on_says_why_and_the_others_are_counted(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        good = make_rows(1)[0]
        first, second = trainer.count(str(tiny_model), "auto", [{**good, "completion": []}, good]).rows
        assert first.fault is not None
        assert (second.fault, second.completion > 0) == (None, True)

    @pytest.mark.parametrize(
        ("beside", "what"),
        [
            ({"tools": [TOOL]}, "tools"),
            ({"completion": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]}, "tool calls"),
            ({"completion": [{"role": "assistant", "content": "human", "reasoning_content": "why"}]}, "reasoning"),
        ],
    )
    def test_what_the_chat_template_leaves_out_is_not_trained_on(
        self, trainer: LocalTrainer, tiny_model: Path, beside: dict[str, Any], what: str
    ) -> None:
        (counted,) = trainer.count(str(tiny_model), "auto", [{**make_rows(1)[0], **beside}]).rows
        assert counted.fault is not None
        assert counted.fault.endswith(f"the base model's chat template says nothing of {what}.")

    @pytest.mark.parametrize("levels", [300, 100_000])
    def test_a_row_whose_arguments_are_too_deep_says_so_and_the_others_are_counted(
        self, trainer: LocalTrainer, tiny_model: Path, levels: int
    ) -> None:
        good = make_rows(1)[0]
        call = {**CALL, "function": {"name": "look_up", "arguments": '{"a":' + "[" * levels + "]" * levels + "}"}}
        deep = {**good, "completion": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
        first, second = trainer.count(str(tiny_model), "auto", [deep, good]).rows
        assert first.fault == "The row: the chat template refuses it: the arguments of a tool call are nested more than 200 levels deep"
        assert (second.fault, second.completion > 0) == (None, True)

    def test_a_template_that_makes_too_much_of_a_row_is_stopped_and_the_others_are_counted(
        self, trainer: LocalTrainer, tiny_model: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "greedy"
        shutil.copytree(tiny_model, folder)
        greedy = "{% if messages[-1].content == 'much' %}{{ 'x' * 10**10 }}{% endif %}"
        (folder / "chat_template.jinja").write_text(greedy + (tiny_model / "chat_template.jinja").read_text())
        good = make_rows(1)[0]
        much = {**good, "completion": [{"role": "assistant", "content": "much"}]}
        first, second = trainer.count(str(folder), "auto", [much, good]).rows
        assert first.fault == "The row: the chat template refuses it: it takes more than 1024 MB of memory"
        assert (second.fault, second.completion > 0) == (None, True)

    def test_an_unknown_base_model_is_named(self, trainer: LocalTrainer) -> None:
        with pytest.raises(CannotCount, match="no-such-model"):
            trainer.count("no-such-model", "auto", [])

    def test_a_process_that_has_ended_is_started_again(self, trainer: LocalTrainer, tiny_model: Path) -> None:
        before = trainer.count(str(tiny_model), "auto", make_rows(1))
        process = trainer._counter._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert trainer.count(str(tiny_model), "auto", make_rows(1)) == before


class TestToolRows:
    def test_tool_calls_and_reasoning_are_what_the_loss_is_on(self, tiny_model: Path) -> None:
        tokenizer = resolve(str(tiny_model)).load_tokenizer()
        tokenizer.chat_template = TOOL_TEMPLATE
        answer = {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "look first"}
        row = {"prompt": [{"role": "user", "content": "Rome?"}], "completion": [answer], "tools": [TOOL]}
        encoded = encode(TrainingRow.model_validate(row), tokenizer)
        prompt, completion = (tokenizer.decode(ids) for ids in (encoded.ids[: encoded.prompt_length], encoded.ids[encoded.prompt_length :]))
        assert "<tool>look_up</tool>" in prompt
        assert completion == "<think>look first</think><call>look_up Rome</call><|im_end|>"
