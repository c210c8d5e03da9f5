"""`stillhouse.BootstrapFinetune` against a whole server: programs with a branch and a tool, a metric that is a lambda, no code sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy.teleprompt import Teleprompter

import stillhouse
from tests.integration.api.conftest import serving
from tests.integration.execute.client_player import TOML, token
from tests.integration.execute.house import House, PretendTrainer, at_work, configured, guesses, rows
from tests.support.scripted_lm import Answer, Ask, ScriptedLM


class Classify(dspy.Signature):
    """Route a customer message to one team."""

    message: str = dspy.InputField()
    category: Literal["billing", "technical", "account"] = dspy.OutputField()


class Reply(dspy.Signature):
    """Answer the customer."""

    message: str = dspy.InputField()
    category: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Desk(dspy.Module):
    """A branch, a predictor in a dict and one in a list, and a tool that only this process has."""

    def __init__(self) -> None:
        super().__init__()
        self.by = {"the team": dspy.Predict(Classify)}
        self.replies = [dspy.Predict(Reply)]
        self.asked: list[str] = []

    def forward(self, message: str) -> dspy.Prediction:
        team = self.by["the team"](message=message).category
        if team == "account":
            return dspy.Prediction(category=team, answer=self.look_up(message))
        return dspy.Prediction(category=team, answer=self.replies[0](message=message, category=team).answer)

    def look_up(self, message: str) -> str:
        return f"Account {len(message)} is in order."


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


@pytest.fixture
def client(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[stillhouse.Stillhouse]:
    """A client of a real server, whose workers are at work as long as it is there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving() as url, at_work(house), stillhouse.Stillhouse(url, token("default")) as made:
        yield made


class Reworded(Teleprompter):
    """An optimizer of prompts: it changes the instructions."""

    def compile(self, student: Any, trainset: Any) -> Any:
        made = student.reset_copy()
        for predictor in made.predictors():
            predictor.signature = predictor.signature.with_instructions("Read the message to its end, and name the team.")
        return made


def examples(n: int) -> list[Any]:
    return [dspy.Example(row).with_inputs("message") for row in rows(n)]


def program(lm: str, url: str = "http://127.0.0.1:9/v1") -> Desk:
    made = Desk()
    made.set_lm(dspy.LM(lm, api_base=url, api_key="the-users-own"))
    return made


@pytest.mark.slow
class TestCompile:
    def test_a_branch_a_tool_and_a_lambda(self, house: House, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]) -> None:
        student, teacher = program("openai/tiny"), program("teacher/big")
        metric = lambda example, prediction, trace=None: example.category == prediction.category and len(trace) > 0  # noqa: E731
        optimizer = stillhouse.BootstrapFinetune(metric=metric, multitask=False, train_kwargs={"n_epochs": 1}, client=client)
        tuned = optimizer.compile(student, examples(12), teacher=teacher, valset=examples(3))

        job = optimizer.job
        assert job is not None
        assert job.status == "succeeded"
        assert job.evaluation is not None
        assert {role: job.evaluation[role]["score"] for role in ("baseline", "teacher", "compiled")} == {
            "baseline": pytest.approx(0.3333),
            "teacher": 1.0,
            "compiled": 1.0,
        }
        assert isinstance(house.trainer, PretendTrainer)
        assert sorted(len(each["texts"]) for each in house.trainer.jobs) == [8, 12]

        assert tuned is not student
        assert isinstance(tuned, Desk)
        assert [predictor.lm.model for predictor in student.predictors()] == ["openai/tiny"] * 2
        assert all(predictor.lm.model.startswith("tune/sh-") for predictor in tuned.predictors())
        answer = tuned(message="Where is my money? Message about billing")
        assert (answer.category, answer.answer) == ("billing", "Team billing will help.")

        keys = {call.headers.get("Authorization") for call in [*house.teacher.calls, *house.student.calls]}
        assert not any("the-users-own" in str(key) for key in keys)
        told = capsys.readouterr().err
        line = told.splitlines()[0]
        assert line.startswith("2 predictors → 2 LoRA; 12 examples, 0 already run; 3 held out; price unknown (")
        assert "time unknown; taught by teacher/big; the program and your metric run here, in this process: keep it open, or " in line
        table = [text.split() for text in optimizer.report().splitlines()]
        assert ["by['the", "team']", "12", "0"] in [row[:4] for row in table]
        assert ["replies[0]", "8", "0"] in [row[:3] for row in table]
        assert ["compiled", "1.000"] in [row[:2] for row in table]
        assert optimizer.failed_examples() == []
        assert job.artifact is not None
        loaded = stillhouse.load(job.artifact.id, program=Desk(), client=client)
        assert loaded(message="Where is my money? Message about billing").category == "billing"

        asked = len(house.teacher.calls)
        again = stillhouse.BootstrapFinetune(metric=metric, multitask=False, train_kwargs={"n_epochs": 1}, client=client)
        again.compile(program("openai/tiny"), examples(12), teacher=program("teacher/big"), valset=examples(3))
        assert again.job is not None
        assert again.job.id == job.id, "the same call finds its job"
        told = capsys.readouterr().err
        assert f"{job.id} is succeeded: this call goes on with it" in told
        assert "already run" not in told
        other = stillhouse.BootstrapFinetune(metric=lambda *_: True, multitask=False, train_kwargs={"n_epochs": 1}, client=client)
        other.compile(student, examples(12), teacher=teacher, valset=examples(3))
        assert other.job is not None
        assert other.job.id != job.id
        assert "12 examples, 12 already run; " in capsys.readouterr().err
        assert len(house.teacher.calls) == asked, "another metric scores anew, and asks the teacher nothing"
        of_its_traces = client.compile_jobs.refilter(job.id, filter={"min_score": 0.5})
        again.compile(program("openai/tiny"), examples(12), teacher=program("teacher/big"), valset=examples(3))
        assert again.job.id == of_its_traces.id, "what is made of its traces is found by the same call"
        assert again.job.status == "succeeded"

    def test_compact_prompts(self, house: House, client: stillhouse.Stillhouse) -> None:
        def answers(ask: Ask) -> Answer:
            said = str(ask.messages[-1]["content"]).split()[-1]
            if not ask.model.startswith("sh-"):
                return guesses(ask)
            return said if ask.messages[0]["content"].startswith("Route") else f"Team {said} will help."

        house.student.answer = answers
        optimizer = stillhouse.BootstrapFinetune(metric="exact_match", prompt="compact", client=client)
        tuned = optimizer.compile(program("openai/tiny"), examples(12), teacher=program("teacher/big"), valset=examples(3))
        assert tuned(message="Message 1 about technical").answer == "Team technical will help."
        assert house.student.calls[-1].body["messages"] == [
            {"role": "system", "content": "Answer the customer."},
            {"role": "user", "content": "message: Message 1 about technical\ncategory: technical"},
        ]
        assert "compiled" in optimizer.report()

    def test_inside_better_together(self, house: House, client: stillhouse.Stillhouse) -> None:
        student = program("openai/tiny", house.student.url)
        student.set_lm(dspy.LM("openai/tiny", api_base=house.student.url, api_key="k", cache=False))

        def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
            return bool(example.category == prediction.category)

        both = dspy.BetterTogether(
            metric=metric,
            p=dspy.LabeledFewShot(k=2),
            w=stillhouse.BootstrapFinetune(metric=metric, client=client, teacher_lms={"openai/tiny": "teacher/big"}),
        )
        compiled = both.compile(student, trainset=examples(12), valset=examples(3), strategy="p -> w")
        assert not compiled.flag_compilation_error_occurred
        assert next(candidate["strategy"] for candidate in compiled.candidate_programs) == "p -> w"
        assert all(predictor.lm.model.startswith("tune/sh-") for predictor in compiled.predictors())

        again = both.compile(student, trainset=examples(9), strategy="p -> w -> p")
        assert not again.flag_compilation_error_occurred, "below ten examples it splits off an empty valset"
        assert all(predictor.lm.model.startswith("tune/sh-") for predictor in again.predictors())

    def test_weights_prompts_and_weights_again(self, house: House, client: stillhouse.Stillhouse) -> None:
        student = dspy.Predict(Classify)
        student.set_lm(dspy.LM("openai/tiny", api_base=house.student.url, api_key="k", cache=False))
        teacher = dspy.Predict(Classify)
        teacher.set_lm(dspy.LM("teacher/big"))

        def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
            return bool(example.category == prediction.category)

        weights = stillhouse.BootstrapFinetune(metric="exact_match", client=client)
        both = dspy.BetterTogether(metric=metric, p=Reworded(), w=weights)
        tuned = both.compile(student, trainset=examples(6), valset=examples(2), teacher=teacher, strategy="w -> p -> w")
        assert not tuned.flag_compilation_error_occurred
        scores = {each["strategy"]: each["score"] for each in tuned.candidate_programs}
        assert scores == {"": 0.0, "w": 100.0, "w -> p": 100.0, "w -> p -> w": 100.0}, (
            "the tuned model is asked with other instructions too"
        )
        assert isinstance(house.trainer, PretendTrainer)
        assert [job.get("start_from") for job in house.trainer.jobs] == [None, "start"]
