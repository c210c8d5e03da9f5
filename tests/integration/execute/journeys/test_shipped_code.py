"""`ship_code=True`: programs and metrics of a user's own folder, and of a notebook, compiled in the server's sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.execute.house import CATEGORIES
from tests.integration.execute.journeys.conftest import STUDENT, TEACHER, Live
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

SUPPORT = {
    "support/__init__.py": "from support.data import held_out, train\nfrom support.desk import desk\nfrom support.scores import close\n",
    "support/answers.py": '''
from typing import Literal
import pydantic

class Answer(pydantic.BaseModel):
    team: Literal["billing", "technical", "account"]
    confidence: float = pydantic.Field(ge=0, le=1)
''',
    "support/desk.py": '''
from pathlib import Path
import dspy
from support.answers import Answer

class Route(dspy.Signature):
    """Route a customer message to one team, and say how sure you are."""

    message: str = dspy.InputField()
    answer: Answer = dspy.OutputField()

class Desk(dspy.Module):
    def __init__(self, sure=0.5):
        super().__init__()
        self.by = {"route": dspy.Predict(Route)}
        self.replies = [dspy.ChainOfThought("message, team -> text")]
        self.sure = sure

    def forward(self, message):
        answer = self.by["route"](message=message).answer
        if answer.confidence < self.sure:
            return dspy.Prediction(answer=Answer(team="account", confidence=answer.confidence), text="Somebody will call you.")
        return dspy.Prediction(answer=answer, text=self.replies[0](message=message, team=answer.team).text)

def desk(lm):
    made = Desk()
    made.set_lm(dspy.LM(lm, api_key="a-key-of-the-users-own"))
    return made
''',
    "support/scores.py": '''
import numpy as np

def close(example, prediction, trace=None):
    right = prediction.answer.team == example.team
    return float(np.mean([right, np.isclose(prediction.answer.confidence, 0.9)]))
''',
    "support/data.py": '''
import dspy

TEAMS = ["billing", "technical", "account"]

rows = [dspy.Example(message=f"Message {n} about {TEAMS[n % 3]}", team=TEAMS[n % 3]).with_inputs("message") for n in range(15)]
train, held_out = rows[:12], rows[12:]
''',
}  # fmt: skip
SCRIPT = f"""
import stillhouse, support
optimizer = stillhouse.BootstrapFinetune(metric=support.close, multitask=False, ship_code=True)
tuned = optimizer.compile(support.desk("house/{STUDENT}"), support.train, support.desk("openai/{TEACHER}"), support.held_out)
"""
AFTER = f"""
import json
asked = {{"message": "Where is my money? Message about billing"}}
artifact = optimizer.job.artifact.id
found = {{"job": optimizer.job.model_dump(), "team": tuned(**asked).answer.team, "kind": type(tuned).__name__}}
found["loaded"] = stillhouse.load(artifact, program=support.desk("house/{STUDENT}"))(**asked).answer.team
try:
    stillhouse.load(artifact)
except ValueError as error:
    found["by_itself"] = str(error)
with stillhouse.Stillhouse() as client:
    found["called"] = client.artifacts.call(artifact, asked).outputs
with open("found.json", "w") as file:
    json.dump(found, file)
"""
FOUND = """
import json
with open("found.json", "w") as file:
    json.dump({"id": optimizer.job.id, "where": optimizer.job.rollouts["where"]}, file)
"""
NOTEBOOK = f'''
import dspy, stillhouse
import numpy as np
from typing import Literal

LIMIT = 0.5

class Route(dspy.Signature):
    """Route a customer message to one team."""
    message: str = dspy.InputField()
    team: Literal["billing", "technical", "account"] = dspy.OutputField()

class Desk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.route = dspy.Predict(Route)

    def forward(self, message):
        team = self.route(message=message).team
        return dspy.Prediction(team=team, urgent=share(message) > LIMIT)

def share(message):
    return float(np.mean([letter.isupper() for letter in message]))

def desk(lm):
    made = Desk()
    made.set_lm(dspy.LM(lm))
    return made

teams = ["billing", "technical", "account"]
rows = [dspy.Example(message=f"Message {{n}} about {{teams[n % 3]}}", team=teams[n % 3]).with_inputs("message") for n in range(15)]
def metric(example, prediction, trace=None):
    return prediction.team == example.team and not prediction.urgent

optimizer = stillhouse.BootstrapFinetune(metric=metric, ship_code=True)
tuned = optimizer.compile(desk("house/{STUDENT}"), rows[:12], desk("openai/{TEACHER}"), rows[12:])
import json
with open("found.json", "w") as file:
    json.dump({{"job": optimizer.job.model_dump(), "team": tuned(message="Message about billing").team}}, file)
'''


def routes(ask: Ask) -> Answer:
    """The team stands at the end of the message."""
    said = ask.inputs.get("message", ask.text).split()[-1]
    team = said if said in CATEGORIES else "billing"
    answer = json.dumps({"team": team, "confidence": 0.9})
    answers = {"answer": answer, "team": team, "reasoning": "It says so.", "text": f"Team {team} will help."}
    return {name: answers[name] for name in ask.outputs}


def learns(ask: Ask) -> Answer:
    """Never sure, until it is asked as a fine-tuned model."""
    if ask.model.startswith("sh-"):
        return routes(ask)
    return {name: {"answer": '{"team": "account", "confidence": 0.1}', "team": "account"}.get(name, "Hm.") for name in ask.outputs}


@pytest.fixture
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=routes) as lm:
        yield lm


@pytest.fixture
def student() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=learns) as lm:
        yield lm


def ran(desk: Path, *arguments: str, typed: str | None = None) -> tuple[dict[str, Any], str]:
    """What a process of the user's own found out, and what it said."""
    done = subprocess.run(
        [sys.executable, *arguments], input=typed or "", capture_output=True, text=True, timeout=300, check=False, cwd=desk
    )
    assert done.returncode == 0, done.stderr
    return json.loads((desk / "found.json").read_text()), done.stderr


def scores(found: dict[str, Any]) -> dict[str, float]:
    return {role: found["job"]["evaluation"][role]["score"] for role in ("baseline", "teacher", "compiled")}


@pytest.mark.slow
class TestShippedCode:
    def test_a_program_of_a_folder_is_compiled_in_the_sandbox(self, live: Live, desk: Path) -> None:
        for name, text in SUPPORT.items():
            (desk / name).parent.mkdir(exist_ok=True)
            (desk / name).write_text(text)
        (desk / "script.py").write_text(SCRIPT + AFTER)
        found, said = ran(desk, "script.py")
        assert scores(found) == {"baseline": 0.1667, "teacher": 1.0, "compiled": 1.0}
        assert (found["team"], found["loaded"], found["kind"]) == ("billing", "billing", "Desk")
        assert found["called"] == {"answer": {"team": "billing", "confidence": 0.9}, "text": "Team billing will help."}
        assert "pass `program=`" in found["by_itself"]
        assert found["job"]["rollouts"]["where"] == "server"
        first, second = [line for line in said.splitlines() if "your code" in line or "→" in line]
        assert "runs at http://127.0.0.1:" in first
        assert all(name in first for name in SUPPORT)
        assert second.endswith("; the program and your metric run on the server, in its sandbox")
        paid = len(live.house.teacher.calls)
        again, said = ran(desk, "script.py")
        assert again["job"]["id"] == found["job"]["id"]
        assert "there already as bundle-" in said
        assert len(live.house.teacher.calls) == paid, "and nothing is asked again"
        assert not any("a-key-of-the-users-own" in json.dumps(call.headers) for call in live.house.teacher.calls)

    def test_a_notebook_travels_by_value(self, live: Live, desk: Path) -> None:
        found, said = ran(desk, "-", typed=NOTEBOOK)
        assert scores(found) == {"baseline": pytest.approx(0.3333), "teacher": 1.0, "compiled": 1.0}
        assert found["team"] == "billing"
        assert "program: Desk, Route, share by value (" in said
        paid = len(live.house.teacher.calls)
        other, _ = ran(desk, "-", typed=NOTEBOOK.replace("and not prediction.urgent", "and prediction.urgent is False"))
        assert other["job"]["id"] != found["job"]["id"], "another metric is another job"
        assert len(live.house.teacher.calls) == paid, "which scores anew, and asks the teacher nothing"

    def test_traces_of_the_same_text_are_shared_with_client_runs(self, live: Live, desk: Path) -> None:
        """The edited file is one that the class of the program is not in."""
        for name, text in SUPPORT.items():
            (desk / name).parent.mkdir(exist_ok=True)
            (desk / name).write_text(text)
        (desk / "script.py").write_text(SCRIPT + FOUND)
        (desk / "here.py").write_text(SCRIPT.replace("ship_code=True", "ship_code=False") + FOUND)
        here, _ = ran(desk, "here.py")
        paid = len(live.house.teacher.calls)
        shipped, said = ran(desk, "script.py")
        assert (here["where"], shipped["where"]) == ("client", "server")
        assert "12 examples, 12 already run" in said
        assert len(live.house.teacher.calls) == paid

        edited = SUPPORT["support/answers.py"].replace("ge=0, le=1", "ge=0, le=1, strict=False")
        (desk / "support/answers.py").write_text(edited)
        _, said = ran(desk, "script.py")
        assert "12 examples, 0 already run" in said
        assert len(live.house.teacher.calls) == 2 * paid
        edited_here, said = ran(desk, "here.py")
        assert edited_here["id"] != here["id"]
        assert "12 examples, 12 already run" in said, "a job of its own, on the traces of the same text"
        assert len(live.house.teacher.calls) == 2 * paid
