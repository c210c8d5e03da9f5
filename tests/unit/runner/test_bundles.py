"""Bundles in a real runner: what is unpacked, described and run, and what is refused, whatever the code in them does."""

from __future__ import annotations

import base64
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import orjson
import pytest

from distill.relay import Relay, Target
from distill.rollouts import ProgramHost, Runner, RunnerDied, RunnerError, RunnerPool
from distill.rollouts.events import read_event
from distill.sandbox import Choice
from stillhouse_programs.spec import parse_bundle, parse_spec
from tests.support.bundles import DESK as FILES
from tests.support.bundles import PYTHON, bundle, by_value
from tests.support.scripted_lm import Ask, ScriptedLM
from tests.unit.runner.routing import LMS as ROUTER_LMS
from tests.unit.runner.routing import ROUTER

Json = dict[str, Any]
LMS = {"student": {"slot": "student", "options": {}}}
DESK = {"reference": "desk.programs:Desk"}
MARKS = {"marks.py": "def right(example, prediction, trace=None):\n    return prediction.team == example.team\n"}


class Sent:
    """The bundles of a project, and how often each was asked for."""

    def __init__(self) -> None:
        self.documents: dict[str, Json] = {}
        self.asked: list[str] = []

    def add(self, document: Json) -> str:
        digest = parse_bundle(document).digest
        self.documents[digest] = document
        return digest

    def get(self, project: str, digest: str) -> Json:
        self.asked.append(digest)
        if project != "project" or digest not in self.documents:
            raise RunnerError("bundle_not_found", "no such bundle", "bundle")
        return self.documents[digest]


@pytest.fixture(scope="module")
def sent() -> Sent:
    return Sent()


@pytest.fixture(scope="module")
def runner(relay: Relay, sent: Sent) -> Iterator[Runner]:
    """One for all: what one test has sent is there in the next."""
    with opened(relay, sent) as runner:
        yield runner


@contextmanager
def opened(relay: Relay, sent: Sent, **more: Any) -> Iterator[Runner]:
    with (
        RunnerPool(relay, {"default": sys.executable}, bundles=sent.get, **more) as pool,
        pool.runner("project", "job", PYTHON) as runner,
    ):
        yield runner


def describe(runner: Runner, digest: str, **asked: Any) -> Json:
    program: Json = runner.ask("describe", bundle=digest, **{**DESK, **asked})["program"]
    return program


def refused(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(RunnerError) as refusal:
        ask()
    return refusal.value.code, refusal.value.message


def answers(ask: Ask) -> Any:
    return {"team": "billing"} if "team" in ask.outputs else {"answer": ask.inputs["draft"] + "!"}


def rolled(relay: Relay, runner: Runner, program: Json, metric: Json) -> tuple[Json, Json]:
    """The trace and the score of one rollout."""
    with ScriptedLM(answer=answers) as lm:
        runner.ensure_open(str(program), program=program, lms=LMS)
        example = {"index": 0, "inputs": {"message": "charged"}, "labels": {"team": "billing"}, "rollouts": [{"n": 0, "seed": 1}]}
        token = relay.grant({"student": Target("scripted", lm.url, "upstream", max_in_flight=8)}).token
        events = list(runner.request("rollouts", program_key=str(program), token=token, examples=[example], metric=metric))
    trace, score = (next(each[kind] for each in events if each["event"] == kind) for kind in ("trace", "score"))
    return trace, score


class Shout(dspy.Module):
    """As a notebook would have it: defined where no server can import it."""

    def __init__(self, marks: int) -> None:
        super().__init__()
        self.route = dspy.Predict("message -> team")
        self.marks = marks

    def forward(self, message: str) -> dspy.Prediction:
        return dspy.Prediction(team=self.route(message=message).team + "!" * self.marks)


def loud(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.team == f"{example.team}!!")


class TestRuns:
    def test_files(self, relay: Relay, runner: Runner, sent: Sent) -> None:
        digest = sent.add(bundle(packages={"numpy": "1.0"}))
        program = describe(runner, digest, kwargs={"rounds": 2})
        spec = parse_spec(program)
        assert spec.reference is not None
        assert (spec.reference.bundle, [each.name for each in spec.reference.inputs]) == (digest, ["message"])
        assert list(spec.reference.source) == ["desk", "desk.programs", "desk.words"]
        metric = {"type": "reference", "reference": "desk.scores:right", "bundle": digest}
        trace, score = rolled(relay, runner, program, metric)
        assert (trace["outputs"], score["value"]) == ({"team": "billing", "answer": "Hello.!!"}, 1.0)
        assert sent.asked.count(digest) == 1, "it is sent once"

    def test_what_was_made_by_value(self, relay: Relay, runner: Runner, sent: Sent) -> None:
        pickles = {"program": by_value(Shout(2)), "metric": by_value(loud, "metric")}
        digest = sent.add(bundle({}, pickles=pickles))
        program = describe(runner, digest, reference="stillhouse_bundle:program")
        metric = {"type": "reference", "reference": "stillhouse_bundle:metric", "bundle": digest}
        trace, score = rolled(relay, runner, program, metric)
        assert (trace["outputs"], score["value"]) == ({"team": "billing!!"}, 1.0)
        runner.ask("open", program_key="again", program=program, lms=LMS)
        assert (
            "takes no keyword arguments"
            in refused(lambda: describe(runner, digest, reference="stillhouse_bundle:program", kwargs={"a": 1}))[1]
        )

    def test_two_bundles_that_do_not_meet(self, relay: Relay, runner: Runner, sent: Sent) -> None:
        program = describe(runner, sent.add(bundle()))
        other = {"type": "reference", "reference": "marks:right", "bundle": sent.add(bundle(MARKS))}
        assert rolled(relay, runner, program, other)[1]["passed"] is True

    def test_the_same_text_in_two_is_no_clash(self, runner: Runner, sent: Sent) -> None:
        describe(runner, sent.add(bundle()))
        describe(runner, sent.add(bundle(packages={"numpy": "1.0"})))

    def test_code_that_ends_its_import_does_not_end_the_runner(self, runner: Runner, sent: Sent) -> None:
        faults = {
            "raise ValueError('no licence in /home/ana/key')": "importing a raised ValueError: no licence in key",
            "raise SystemExit(3)": "importing a raised SystemExit: 3",
            "def f(): f()\nf()": "importing a raised RecursionError",
            "import desk_of_nobody": "importing a needs desk_of_nobody, which is neither in the bundle nor installed where programs run",
            "def (": "importing a raised SyntaxError",
            "class Error(Exception):\n    def __str__(self): raise SystemExit\nraise Error": "SystemExit",
        }
        for number, (text, message) in enumerate(faults.items()):
            name = f"a{number}"
            digest = sent.add(bundle({f"{name}.py": text}))
            found = refused(lambda name=name, digest=digest: describe(runner, digest, reference=f"{name}:Desk"))  # type: ignore[misc]
            assert message.replace("importing a ", f"importing {name} ") in found[1], text
        describe(runner, sent.add(bundle()))


class TestTwoTextsOfOneModule:
    """A program, and what was compiled from it before it was changed."""

    @pytest.fixture
    def pool(self, relay: Relay, sent: Sent) -> Iterator[RunnerPool]:
        with RunnerPool(relay, {"default": sys.executable}, bundles=sent.get) as pool:
            yield pool

    @pytest.fixture
    def texts(self, sent: Sent) -> list[str]:
        return [sent.add(bundle({**FILES, "desk/hello.txt": text})) for text in ("Hi.", "Good day.")]

    def test_each_runs_in_a_runner_of_its_own(self, relay: Relay, pool: RunnerPool, sent: Sent, texts: list[str]) -> None:
        metric = {"type": "reference", "reference": "marks:right", "bundle": sent.add(bundle(MARKS))}
        ran = []
        for digest in (*texts, texts[0]):
            with pool.runner("project", "job", PYTHON, bundles=[digest, metric["bundle"]]) as runner:
                trace, score = rolled(relay, runner, describe(runner, digest), metric)
                ran.append((trace["outputs"]["answer"], score["passed"], runner))
        assert [each[:2] for each in ran] == [("Hi.!", True), ("Good day.!", True), ("Hi.!", True)]
        assert (ran[2][2], ran[1][2] is ran[0][2]) == (ran[0][2], False), "the runner of a text is warm for it alone"
        with pool.runner("project", "other", PYTHON, bundles=[texts[0], metric["bundle"]]) as other:
            assert other not in [each[2] for each in ran]
        pool.end_job("project", "job")
        assert (ran[0][2].alive, ran[1][2].alive, other.alive) == (False, False, True)

    def test_each_is_validated_with_the_metric_beside_it(self, pool: RunnerPool, sent: Sent, texts: list[str]) -> None:
        host, metric = ProgramHost(pool), {"type": "reference", "reference": "marks:right", "bundle": sent.add(bundle(MARKS))}
        made = [host.describe("project", {**DESK, "bundle": digest}, python=PYTHON)["program"] for digest in texts]
        newer, older, plain = (
            {"program": program, "program_digest": name, "lms": lms}
            for name, program, lms in (("newer", made[0], LMS), ("older", made[1], LMS), ("plain", ROUTER, ROUTER_LMS))
        )
        asked: Json = {**newer, "teachers": [older, plain], "samples": [{"message": "Help"}], "metric": metric}
        reply = host.validate("project", asked, python=PYTHON)
        assert reply["prompt_hash"].keys() == reply["program_state"].keys() == {"newer", "older", "plain"}
        assert [each["name"] for each in reply["predictors"]] == ["route", "write"], "of the student"
        theirs = {"type": "reference", "reference": "desk.scores:right", "bundle": texts[1]}
        code, message = refused(lambda: host.validate("project", {**asked, "metric": theirs}, python=PYTHON))
        assert (code, "of a program and of its metric hold desk/hello.txt with other text" in message) == ("bundles_clash", True)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('boom')",)


class Writer:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


class TestRefused:
    def test_a_pickle_that_is_none(self, runner: Runner, sent: Sent, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        broken = {
            "nonsense": b"no pickle",
            "cut": pickle.dumps(list(range(1000)))[:-20],
            "bomb": pickle.dumps(Bomb()),
            "writer": pickle.dumps(Writer(tmp_path / "pwned")),
            "number": pickle.dumps(1),
            "deep": b"(" * 100_000 + b".",
        }
        pickles = {name: {"makes": "program", "data": base64.b64encode(data).decode()} for name, data in broken.items()}
        digest = sent.add(bundle({}, pickles=pickles))
        for name in broken:
            code, message = refused(lambda name=name: describe(runner, digest, reference=f"stillhouse_bundle:{name}"))  # type: ignore[misc]
            assert (code, f"stillhouse_bundle:{name}" in message) == ("reference_failed", True), message
        assert not (tmp_path / "pwned").exists()

    def test_a_pickle_that_is_not_there(self, runner: Runner, sent: Sent) -> None:
        digest = sent.add(bundle())
        found = refused(lambda: describe(runner, digest, reference="stillhouse_bundle:program"))
        assert found == ("reference_not_found", "the bundle has no pickle `program` (there are: none)")

    def test_a_module_that_is_not_there(self, runner: Runner, sent: Sent) -> None:
        digest = sent.add(bundle({"desk/__init__.py": "", "tools.py": ""}))
        for typo in ("desks:Desk", "desk.app:Desk"):
            found = refused(lambda typo=typo: describe(runner, digest, reference=typo))  # type: ignore[misc]
            assert found == ("reference_not_found", f"the bundle has no module {typo.split(':')[0]} (there are: desk, tools)")

    def test_code_of_others(self, runner: Runner, sent: Sent) -> None:
        digest = sent.add(bundle())
        for name in ("os:system", "dspy:Predict", "stillhouse_programs.ops:Ops", "desks:Desk"):
            found = refused(lambda name=name: describe(runner, digest, reference=name))  # type: ignore[misc]
            assert found[0] == "reference_not_found", name
        assert refused(lambda: runner.ask("describe", reference="desk.programs:Desk"))[0] == "reference_not_allowed", (
            "without its bundle it is nobody's"
        )

    @pytest.mark.parametrize("name", ["numpy", "dspy", "cloudpickle"])
    def test_a_module_in_place_of_an_installed_one(self, runner: Runner, sent: Sent, name: str) -> None:
        digest = sent.add(bundle({f"{name}/__init__.py": "Desk = None"}))
        code, message = refused(lambda: describe(runner, digest, reference=f"{name}:Desk"))
        assert (code, f"`{name}` would take the place of an installed one" in message) == ("bundle_shadows", True)

    def test_two_bundles_with_other_text_of_one_file(self, runner: Runner, sent: Sent) -> None:
        first = sent.add(bundle({"two/__init__.py": "", "two/b.txt": "1"}))
        runner.ask("unpack", digest=first, document=sent.documents[first])
        for files in ({"two/b.txt": "2"}, {"two.py": ""}):
            digest = sent.add(bundle(files))
            code, message = refused(lambda digest=digest: describe(runner, digest, reference="two:Desk"))  # type: ignore[misc]
            assert (code, "send one bundle for both" in message) == ("bundles_clash", True)

    def test_a_file_where_another_has_a_folder(self, runner: Runner, sent: Sent) -> None:
        for number, (one, other) in enumerate((("data", "data/x.txt"), ("more/x.txt", "more"))):
            first = sent.add(bundle({f"kinds{number}.py": "", one: ""}))
            runner.ask("unpack", digest=first, document=sent.documents[first])
            digest = sent.add(bundle({f"other{number}.py": "", other: ""}))
            code, message = refused(lambda digest=digest, number=number: describe(runner, digest, reference=f"other{number}:Desk"))  # type: ignore[misc]
            assert (code, "send one bundle for both" in message) == ("bundles_clash", True)

    def test_where_code_has_left_no_place_for_its_files(self, relay: Relay, sent: Sent) -> None:
        text = "import pathlib\npathlib.Path(__file__).with_name('late').write_text('mine')\n"
        first, late = sent.add(bundle({"taking.py": text})), sent.add(bundle({"late/__init__.py": ""}))
        with opened(relay, sent) as runner:
            refused(lambda: describe(runner, first, reference="taking:Desk"))
            code, message = refused(lambda: describe(runner, late, reference="late:Desk"))
        assert (code, "/" in message) == ("reference_failed", False), "no path of the server is told"

    def test_a_package_that_is_not_installed(self, runner: Runner, sent: Sent) -> None:
        digest = sent.add(bundle(packages={"numpy": "1.0", "no-such-thing": "1.0"}))
        code, message = refused(lambda: describe(runner, digest))
        assert (code, "the bundle needs no-such-thing, not installed" in message) == ("package_not_installed", True)

    def test_another_python(self, relay: Relay, runner: Runner, sent: Sent) -> None:
        digest = sent.add({**bundle(), "python": "3.2"})
        assert refused(lambda: describe(runner, digest))[0] == "python_not_served"
        with RunnerPool(relay, {"default": sys.executable, "gone": "/nowhere/python"}, bundles=sent.get) as pool:
            code, message = refused(lambda: pool.runner("project", "job", "3.2").__enter__())
        assert (code, message) == ("python_not_served", f"the code is of Python 3.2, and this server runs programs under {PYTHON}")

    def test_all_of_them_without_a_sandbox(self, relay: Relay, sent: Sent) -> None:
        digest = sent.add(bundle({"alone.py": ""}))
        with opened(relay, sent, sandbox=Choice(None)) as plain:
            code, message = refused(lambda: describe(plain, digest, reference="alone:Desk"))
        assert (code, "no sandbox that holds" in message) == ("sandbox_unavailable", True)
        assert digest not in sent.asked

    def test_one_that_the_project_does_not_have(self, runner: Runner) -> None:
        assert refused(lambda: describe(runner, "v1:" + "0" * 64))[0] == "bundle_not_found"


TAKEN_OVER = """
import gc
from stillhouse_programs.ops import Ops

async def describe(request, emit):
    for event in EVENTS:
        await emit(event)
    return {}

for each in gc.get_objects():
    if type(each) is Ops:
        each._table["describe"] = describe
"""
SAID = {"event": "described", "program": {}}


@pytest.mark.slow
class TestHostile:
    """Code that has taken its runner over says what it likes: whoever asked waits for nothing, keeps nothing and believes nothing."""

    @pytest.mark.parametrize(
        ("events", "more"),
        [
            ([], {}),
            ([SAID], {"metric": True}),
            ([SAID] * 50, {}),
        ],
        ids=["nothing", "another answer", "without end"],
    )
    def test_what_answers_no_question(self, relay: Relay, sent: Sent, events: list[Json], more: Json) -> None:
        digest = sent.add(bundle({"taken_over.py": TAKEN_OVER.replace("EVENTS", repr(events))}))
        asked = {"reference": "taken_over:Desk", "kwargs": {}, "bundle": digest}
        with RunnerPool(relay, {"default": sys.executable}, bundles=sent.get) as pool:
            host = ProgramHost(pool)
            refused(lambda: host.describe("project", asked, python=PYTHON))
            with pytest.raises(RunnerDied, match="broke the protocol") as death:
                host.describe("project", {**asked, **more}, python=PYTHON)
        assert (death.value.cause, death.value.is_the_programs) == ("protocol", True)


USED = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}


@pytest.mark.parametrize(
    "said",
    [
        {"event": "described", "program": "a text"},
        {"event": "described", "source": {"desk": 1}},
        {"event": "rendered", "messages": {"ask": "a text"}},
        {"event": "called", "outputs": {}, "usage": {}, "seconds": 1.0},
        {"event": "validated", "predictors": [], "prompt_hash": {}, "program_state": {}},
        {"event": "error", "code": "internal", "message": "the server's fault", "param": None},
        {"event": "error", "code": "no\0code", "message": "", "param": None},
        {"event": "infra", "index": 0, "n": 0, "code": "Our Fault", "message": ""},
        {"event": "rejected", "trace_digest": "0", "call": 0, "predictor": "ask", "reason": "no\0reason", "message": ""},
        {"event": "row", "trace_digest": "0", "call": 0, "predictor": "ask", "prompt": [], "completion": [], "digest": "no\0digest"},
    ],
)
def test_what_no_runner_of_ours_says(said: Json) -> None:
    with pytest.raises(ValueError, match=said["event"]):
        read_event(orjson.dumps({"v": 1, "id": 1, **said}))


def test_what_is_deeper_than_anybody_reads() -> None:
    def said(levels: int) -> bytes:
        outputs = '{"":' * levels + "{}" + "}" * levels
        said = {"v": 1, "id": 1, "event": "called", "outputs": orjson.Fragment(outputs), "usage": USED, "seconds": 1.0}
        return orjson.dumps(said)

    assert read_event(said(150))["outputs"]
    with pytest.raises(ValueError, match="nested more than 200 levels deep"):
        read_event(said(220))
