"""Both sequences of upstream's tutorials on the base model of `make demo`: a teacher that knows, few examples, short answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

import stillhouse
from examples.trec.demo import BASE_MODEL
from stillhouse import Stillhouse
from tests.e2e.together import PROMPTS_FIRST, WEIGHTS_FIRST, answer_of_tuned, assert_ran, better_together, find_server
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MESSAGES = {
    "billing": ["I was charged twice.", "Please send the invoice.", "Refund me.", "The price is wrong.", "My card was declined."],
    "technical": ["The app crashes.", "Uploads fail.", "The page is slow.", "Sync stopped.", "It shows an error."],
    "account": ["I forgot my password.", "I cannot log in.", "Change my email.", "Delete my profile.", "Rename my user."],
}
TEAM = {message: team for team, messages in MESSAGES.items() for message in messages}


class Route(dspy.Signature):
    """Route a customer message to one team."""

    message: str = dspy.InputField()
    team: Literal["billing", "technical", "account"] = dspy.OutputField()


class Support(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.route = dspy.Predict(Route)

    def forward(self, message: str) -> Any:
        return self.route(message=message)


@pytest.fixture(scope="module")
def base_model() -> str:
    return BASE_MODEL


@pytest.fixture(scope="module")
def teacher() -> Any:
    def team(ask: Ask) -> Answer:
        return {"team": TEAM[ask.inputs["message"]]}

    with ScriptedLM(answer=team) as lm:
        yield lm


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.team == prediction.team)


def examples(first: int, last: int) -> list[Any]:
    return [dspy.Example(message=each, team=team).with_inputs("message") for team in MESSAGES for each in MESSAGES[team][first:last]]


def of(model: str) -> Support:
    program = Support()
    program.set_lm(stillhouse.LM(model, temperature=0.0, max_tokens=24))
    return program


@pytest.mark.parametrize("strategy", [PROMPTS_FIRST, WEIGHTS_FIRST])
def test_runs_to_its_end(client: Stillhouse, base_model: str, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_server(client, monkeypatch, str(tmp_path / "cache"))
    student = of(f"house/{base_model}")
    with dspy.context(lm=student.route.lm):  # dspy's optimizer of prompts tries programs without LMs of their own
        compiled = better_together(right, {"n_epochs": 6, "learning_rate": 1e-3, "batch_size": 2}).compile(
            student,
            trainset=examples(0, 4),
            valset=examples(4, 5),
            strategy=strategy,
            optimizer_compile_args={"w": {"teacher": of("teacher/big")}},
            num_threads=1,
            seed=0,
        )
    scores = assert_ran(client, compiled, strategy)
    assert scores[strategy] >= scores[""]
    assert answer_of_tuned(compiled, compiled.route.lm, message="The invoice is wrong.").team in MESSAGES
