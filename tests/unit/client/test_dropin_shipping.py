"""The drop-in with `ship_code`: what is sent, what is said of it, and what the same call does again."""

from __future__ import annotations

import base64
import importlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest

import stillhouse
from stillhouse.bundling.errors import NotSendable
from stillhouse.dropin.shipping import CodeRefused
from tests.unit.client.dropin_server import Classify, Server, example

TICKETS = """
import dspy
from typing import Literal

class Classify(dspy.Signature):
    \"\"\"Route a customer message to one team.\"\"\"

    message: str = dspy.InputField()
    category: Literal["billing", "technical", "account"] = dspy.OutputField()

class Desk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict(Classify)
        self.reply = dspy.Predict("message, category -> answer")

    def forward(self, message):
        team = self.classify(message=message).category
        if team == "account":
            return dspy.Prediction(category=team, answer="In order.")
        return dspy.Prediction(category=team, answer=self.reply(message=message, category=team).answer)

def right(expected, prediction, trace=None):
    return expected.category == prediction.category

def wrong(expected, prediction, trace=None):
    return not right(expected, prediction)
"""

DESK_WITH_HELPER = TICKETS.replace("import dspy", "import dspy\nimport helping").replace('"In order."', "helping.look_up(message)")


@pytest.fixture
def tickets(own: Callable[..., None]) -> Any:
    own({"tickets/__init__.py": "", "tickets/desk.py": TICKETS})
    return importlib.import_module("tickets.desk")


def desk(tickets: Any, lm: str) -> Any:
    made = tickets.Desk()
    made.set_lm(dspy.LM(lm, api_base="http://127.0.0.1:9/v1", api_key="the-users-own"))
    return made


def sent(server: Server, client: stillhouse.Stillhouse, student: Any, teacher: Any, ship_code: Any = True, **options: Any) -> Any:
    """The body of the job that a call asks for."""
    optimizer = stillhouse.BootstrapFinetune(client=client, ship_code=ship_code, **options)
    with pytest.raises(stillhouse.StillhouseError, match="job cjob-1 is failed: over"):
        optimizer.compile(student, [example(number) for number in range(6)], teacher=teacher)
    return server.bodies("POST /v1/compile_jobs")[-1]


class TestSent:
    def test_program_and_metric_go_in_a_bundle_each(
        self, server: Server, client: stillhouse.Stillhouse, tickets: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        body = sent(server, client, desk(tickets, "house/tiny"), desk(tickets, "openai/big"), metric=tickets.right)
        for document in server.bundles:
            assert document["files"] == {"tickets/__init__.py": "", "tickets/desk.py": TICKETS}
            assert document["packages"]["dspy"] == dspy.__version__
        assert [list(each["pickles"]) for each in server.bundles] == [["program"], ["metric"]], "the teacher is the student with another LM"
        lms = {"classify": "student", "reply": "student"}
        program = {"reference": "stillhouse_bundle:program", "kwargs": {}, "lms": lms, "bundle": "bundle-0"}
        assert body["program"] == body["teacher"][0]["program"] == program
        assert body["metric"] == {"type": "reference", "reference": "stillhouse_bundle:metric", "kwargs": {}, "bundle": "bundle-1"}
        assert b"the-users-own" not in base64.b64decode(server.bundles[0]["pickles"]["program"]["data"])
        first, second = capsys.readouterr().err.splitlines()[:2]
        assert first.startswith("your code runs at http://127.0.0.1:")
        assert ", in its sandbox: program: tickets/__init__.py, tickets/desk.py (" in first
        assert " kB); metric: tickets/__init__.py, tickets/desk.py (" in first
        assert second.startswith("2 predictors → ")
        assert second.endswith("; the program and your metric run on the server, in its sandbox")

    def test_the_same_call_sends_nothing_again(
        self, server: Server, client: stillhouse.Stillhouse, tickets: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, again = (
            sent(server, client, desk(tickets, "house/tiny"), desk(tickets, "openai/big"), metric=tickets.right) for _ in range(2)
        )
        assert first == again
        assert len(server.bundles) == 2
        server.bundles.append(server.bundles[0])  # as when two processes have sent it at once
        assert sent(server, client, desk(tickets, "house/tiny"), desk(tickets, "openai/big"), metric=tickets.right) == first
        server.bundles.pop()
        assert " kB, there already as bundle-1)" in capsys.readouterr().err.split("runs at")[2]
        other = sent(server, client, desk(tickets, "house/tiny"), desk(tickets, "openai/big"), metric=tickets.wrong)
        assert [other[part]["bundle"] for part in ("program", "metric")] == ["bundle-0", "bundle-2"], "another metric leaves the program"

    def test_a_straight_line_with_a_built_in_metric_sends_nothing(self, server: Server, client: stillhouse.Stillhouse) -> None:
        line = dspy.Predict(Classify)
        line.set_lm(dspy.LM("house/tiny"))
        sent(server, client, line, None, metric="exact_match")
        assert server.bundles == []

    def test_without_a_metric_everything_is_kept(self, server: Server, client: stillhouse.Stillhouse, tickets: Any) -> None:
        body = sent(server, client, desk(tickets, "house/tiny"), None)
        assert body["metric"]["bundle"] == "bundle-1"
        assert "files" not in server.bundles[1]

    def test_another_teacher_is_another_program(self, server: Server, client: stillhouse.Stillhouse, tickets: Any) -> None:
        student = desk(tickets, "house/tiny")
        student.limit = 3
        body = sent(server, client, student, desk(tickets, "openai/big"), metric=tickets.right)
        assert [body["program"]["bundle"], body["teacher"][0]["program"]["bundle"]] == ["bundle-0", "bundle-1"]

    def test_inputs_are_told_where_forward_takes_any(self, server: Server, client: stillhouse.Stillhouse, tickets: Any) -> None:
        def look_up(message: str) -> str:
            return message

        agent = dspy.ReAct(tickets.Classify, tools=[look_up], max_iters=2)
        agent.set_lm(dspy.LM("house/tiny"))
        body = sent(server, client, agent, None, metric="exact_match")
        assert body["program"]["inputs"] == [{"name": "message", "required": True}]

    def test_files_beside_the_modules(
        self, server: Server, client: stillhouse.Stillhouse, tickets: Any, own: Callable[..., None], tmp_path: Path
    ) -> None:
        own({"prompts/route.txt": "Route it.", "extra.py": "import json\n"})
        student = desk(tickets, "house/tiny")
        sent(server, client, student, None, [tmp_path / "own" / "prompts", "extra"], metric=tickets.right)
        files = server.bundles[0]["files"]
        assert (files["prompts/route.txt"], files["extra.py"]) == ("Route it.", "import json\n")
        sent(server, client, student, None, "extra", metric=tickets.right)
        assert "extra.py" in server.bundles[-1]["files"]

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ("not_there", "ship_code: not_there is neither a file nor a module of your own"),
            ("json", "ship_code: json is neither a file nor a module of your own"),
            (Path("/not/there.txt"), r"ship_code: /not/there\.txt is not there, or lies in no folder that Python imports from"),
        ],
    )
    def test_what_is_not_there(self, server: Server, client: stillhouse.Stillhouse, tickets: Any, more: Any, said: str) -> None:
        with pytest.raises(NotSendable, match=said):
            stillhouse.BootstrapFinetune(metric=tickets.right, client=client, ship_code=[more]).compile(
                desk(tickets, "house/tiny"), [example(0)]
            )
        assert server.bundles == []


class TestHere:
    def test_another_helper_is_another_call(self, server: Server, client: stillhouse.Stillhouse, own: Callable[..., None]) -> None:
        calls = []
        for answer in ("In order.", "In order.", "Closed."):
            own({"helping.py": f"def look_up(message):\n    return {answer!r}\n", "desks.py": DESK_WITH_HELPER})
            for name in ("helping", "desks"):
                sys.modules.pop(name, None)
            student, teacher = (desk(importlib.import_module("desks"), lm) for lm in ("house/tiny", "openai/big"))
            calls.append(sent(server, client, student, teacher, ship_code=False, metric="exact_match")["metadata"])
        assert calls[0] == calls[1]
        assert calls[1] != calls[2]

    def test_an_edit_that_is_not_imported_is_the_same_call(
        self, server: Server, client: stillhouse.Stillhouse, own: Callable[..., None]
    ) -> None:
        own({"helping.py": "def look_up(message):\n    return 'In order.'\n", "desks.py": DESK_WITH_HELPER})
        desks = importlib.import_module("desks")

        def call() -> tuple[str, str | None]:
            body = sent(server, client, desk(desks, "house/tiny"), desk(desks, "openai/big"), ship_code=False, metric="exact_match")
            return body["metadata"], body["program"]["client"].get("identity")

        before = call()
        own({"helping.py": "def look_up(message):\n    return 'It is closed.'\n"})
        assert call() == before, "this process runs what it has imported"
        importlib.reload(sys.modules["helping"])
        after = call()
        assert after[1] is not None
        assert after != before

    def test_what_was_edited_before_the_first_call_has_an_identity_of_its_own(
        self, server: Server, client: stillhouse.Stillhouse, own: Callable[..., None]
    ) -> None:
        own({"helping.py": "def look_up(message):\n    return 'In order.'\n", "desks.py": DESK_WITH_HELPER})
        desks = importlib.import_module("desks")
        own({"helping.py": "def look_up(message):\n    return 'It is closed.'\n"})
        identities = []
        for _ in range(2):
            body = sent(server, client, desk(desks, "house/tiny"), desk(desks, "openai/big"), ship_code=False, metric="exact_match")
            identities.append(body["program"]["client"]["identity"])
            importlib.reload(sys.modules["helping"])
        assert identities[0] != identities[1]


class TestRefused:
    def test_a_program_that_holds_a_lock(self, server: Server, client: stillhouse.Stillhouse, tickets: Any) -> None:
        student = desk(tickets, "house/tiny")
        student.tools = [threading.Lock()]
        with pytest.raises(NotSendable, match=r"program\.tools\[0\] is a lock, which cannot be sent"):
            stillhouse.BootstrapFinetune(metric=tickets.right, client=client, ship_code=True).compile(student, [example(0)])
        assert server.bundles == []
        assert [predictor.lm.model for predictor in student.predictors()] == ["house/tiny"] * 2

    def test_a_metric_that_asks_an_lm(self, server: Server, client: stillhouse.Stillhouse, tickets: Any) -> None:
        judge = dspy.Predict("question -> fair: bool")
        judge.set_lm(dspy.LM("openai/big", api_key="k"))
        metric = lambda example, prediction, trace=None: judge(question="q").fair  # noqa: E731
        with pytest.raises(NotSendable, match=r"metric → judge\.lm is an LM\. LMs and their keys are not sent"):
            stillhouse.BootstrapFinetune(metric=metric, client=client, ship_code=True).compile(desk(tickets, "house/tiny"), [example(0)])

    @pytest.mark.parametrize("route", ["POST bundles", "POST estimate", "POST compile_jobs"])
    @pytest.mark.parametrize("code", ["package_not_allowed", "sandbox_unavailable", "python_not_served", "bundles_not_accepted"])
    def test_a_server_that_does_not_run_it(
        self, server: Server, client: stillhouse.Stillhouse, tickets: Any, route: str, code: str
    ) -> None:
        server.refuses = {route: httpx.Response(422, json={"error": {"code": code, "message": "program: It is not there."}})}
        optimizer = stillhouse.BootstrapFinetune(metric=tickets.right, client=client, ship_code=True)
        with pytest.raises(CodeRefused) as refused:
            optimizer.compile(desk(tickets, "house/tiny"), [example(0)])
        assert refused.value.code == code
        assert str(refused.value).startswith(f"program: It is not there. (422 {code}). Ways out: ship_code=False runs the code here")
        assert "\n" not in str(refused.value)
