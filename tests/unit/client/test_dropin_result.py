"""What the drop-in returns: a copy, or the student itself, that asks as the models were trained to be asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from dspy.lm15 import unregister_provider

import stillhouse
from stillhouse.dropin.optimizer import CompileFailed, say_that_it_is_new
from stillhouse_programs.prove import prompt_hash
from tests.unit.client.dropin_server import Server
from tests.unit.programs.samples import SAMPLES, Support
from tests.unit.programs.scripted_server import scripted_server
from tests.unit.programs.test_artifact import files_of, write


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Its job has succeeded, and its artifact, made under JSON prompts, was downloaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "stillhouse" / "artifacts"
    folder = cache / "art-1"
    folder.mkdir(parents=True)
    write(folder, files_of(), prompt_adapter={"type": "json"}, prompt_hash=prompt_hash(Support(), SAMPLES, "json"))
    listed = [
        {
            "path": str(path.relative_to(folder)),
            "size_bytes": path.stat().st_size,
            "digest": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        }
        for path in folder.rglob("*")
        if path.is_file()
    ]
    (cache / "art-1.files.json").write_text(json.dumps(listed))
    return Server(jobs=[{"id": "cjob-9", "status": "succeeded", "created_at": 1}], succeeded={"cjob-9": "art-1"})


@pytest.mark.parametrize("inplace", [False, True])
def test_it_asks_with_the_prompts_that_were_trained(server: Server, inplace: bool) -> None:
    student = Support()
    try:
        with (
            scripted_server() as lm,
            stillhouse.Stillhouse(lm.base_url, "sh_a_b", transport=httpx.MockTransport(server)) as client,
        ):
            optimizer = stillhouse.BootstrapFinetune(adapter=dspy.JSONAdapter(), client=client, inplace=inplace)
            for _ in range(2):  # the second time of what is pinned already
                student.set_lm(dspy.LM("house/tiny"))
                tuned = optimizer.compile(student, [dspy.Example(message="m", category="billing").with_inputs("message")])
                assert (tuned is student) == inplace
                tuned(message="hi")
            prompts = ["".join(message["content"] for message in body["messages"]) for _, _, body in lm.requests]
    finally:
        unregister_provider("tune")
    assert len(prompts) == 4
    assert all("Respond with a JSON object" in prompt for prompt in prompts)


@pytest.fixture
def offline(server: Server) -> Iterator[stillhouse.Stillhouse]:
    """A client whose models are not asked."""
    with stillhouse.Stillhouse("http://127.0.0.1:9", "sh_a_b", transport=httpx.MockTransport(server)) as client:
        yield client
    unregister_provider("tune")


def support() -> Support:
    made = Support()
    made.set_lm(dspy.LM("house/tiny"))
    for predictor in made.predictors():
        predictor.demos = [dspy.Example(message="mine", category="billing")]
    return made


def compiled(client: stillhouse.Stillhouse, student: Support, **options: Any) -> Any:
    example = dspy.Example(message="m", category="billing").with_inputs("message")
    return stillhouse.BootstrapFinetune(adapter=dspy.JSONAdapter(), client=client, **options).compile(student, [example])


def test_the_prefix_of_fine_tuned_models_stays_the_apps_own(offline: stillhouse.Stillhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server() as own:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", own.base_url)
        monkeypatch.setenv("STILLHOUSE_API_KEY", "sh_own_key")
        compiled(offline, support())
        dspy.LM("tune/sh-mine", cache=False)("hello")
        assert (own.models, own.keys) == (["sh-mine"], {"Bearer sh_own_key"})


def facts(program: Any) -> list[tuple[str, list[Any]]]:
    return [(predictor.lm.model, [dict(demo) for demo in predictor.demos]) for predictor in program.predictors()]


class TestInplace:
    def test_without_it_the_student_is_as_it_was(self, offline: stillhouse.Stillhouse) -> None:
        student = support()
        before, kinds = facts(student), [type(part) for _, part in student.named_sub_modules()]
        tuned = compiled(offline, student)
        assert facts(student) == before
        assert [type(part) for _, part in student.named_sub_modules()] == kinds
        assert not getattr(student, "_compiled", False)
        assert tuned._compiled
        assert not {id(each) for each in student.predictors()} & {id(each) for each in tuned.predictors()}

    @pytest.mark.parametrize("exclude_demos", [False, True])
    @pytest.mark.parametrize("teacher", [None, support()])
    def test_it_changes_the_student_as_upstream_does(
        self, server: Server, offline: stillhouse.Stillhouse, exclude_demos: bool, teacher: Support | None
    ) -> None:
        """The same objects, with the LMs and demos that the compiled program has."""
        wanted = facts(compiled(offline, support()))
        student, of_teacher = support(), teacher and facts(teacher)
        predictors = student.predictors()
        example = dspy.Example(message="m", category="billing").with_inputs("message")
        optimizer = stillhouse.BootstrapFinetune(adapter=dspy.JSONAdapter(), exclude_demos=exclude_demos, client=offline, inplace=True)
        assert optimizer.compile(student, [example], teacher) is student
        assert [id(each) for each in student.predictors()] == [id(each) for each in predictors]
        assert facts(student) == wanted
        assert all(model.startswith("tune/") for model, _ in wanted)
        assert student._compiled
        assert (teacher and facts(teacher)) == of_teacher

    def test_a_job_that_fails_changes_nothing(self, server: Server, offline: stillhouse.Stillhouse) -> None:
        server.jobs = []
        student = support()
        before = facts(student)
        with pytest.raises(CompileFailed):
            compiled(offline, student, inplace=True)
        assert facts(student) == before
        assert not getattr(student, "_compiled", False)

    def test_that_it_is_new_is_told_once(self, offline: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]) -> None:
        say_that_it_is_new.cache_clear()
        compiled(offline, support(), inplace=True)
        assert "is a new one" not in capsys.readouterr().err
        compiled(offline, support())
        assert capsys.readouterr().err.count("The compiled program is a new one, and the student is as it was") == 1
        compiled(offline, support())
        assert "is a new one" not in capsys.readouterr().err
