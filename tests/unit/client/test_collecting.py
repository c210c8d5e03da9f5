"""What of live programs and metrics goes into a bundle, and what is in the way."""

from __future__ import annotations

import base64
import importlib
import json
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import httpx
import orjson
import pytest

from stillhouse.bundling.collect import Collected, collect
from stillhouse.bundling.errors import NotSendable
from stillhouse.bundling.pickling import bare, pickled
from stillhouse.bundling.whose import Whose, whose

Own = Callable[[dict[str, str]], None]
SCORES = "from tickets.words import STOP\n\ndef close(example, prediction, trace=None):\n    return example.a not in STOP\n"


def metric_of(function: Any) -> Collected:
    return collect({"metric": pickled(function, "metric")})


def typed_in(body: str, package: str | None = None) -> Any:
    """A metric of a script."""
    made: dict[str, Any] = {"__name__": "__main__", "__package__": package}
    exec(f"def metric(example, prediction, trace=None):\n  {body}", made)  # noqa: S102 - as Python does with a script
    return made["metric"]


class TestModules:
    def test_those_that_it_imports_and_those_above_them(self, own: Own) -> None:
        own({
            "tickets/__init__.py": "",
            "tickets/scores.py": SCORES,
            "tickets/words.py": "from . import more\nSTOP = more.FOUND\n",
            "tickets/more.py": "import orjson\nFOUND = [str(orjson.dumps(1))]\n\ndef later():\n    from helpers.lazy import x\n",
            "tickets/other.py": "",
            "helpers/lazy.py": "import stillhouse_programs\nx = 1\n",
        })  # fmt: skip
        found = metric_of(importlib.import_module("tickets.scores").close)
        names = ["__init__", "more", "scores", "words"]
        assert list(found.document["files"]) == ["helpers/lazy.py", *(f"tickets/{name}.py" for name in names)]
        assert found.document["files"]["tickets/scores.py"] == SCORES
        assert found.document["packages"]["orjson"] == orjson.__version__
        assert not {"stillhouse-programs", "stillhouse_programs"} & set(found.document["packages"]), "it is always there"
        assert found.by_value == []

    @pytest.mark.parametrize(
        ("module", "owner"),
        [
            ("distill.ids", Whose.OWN),  # installed for editing
            ("dspy.primitives", Whose.INSTALLED),
            ("stillhouse._version", Whose.INSTALLED),
            ("stillhouse_programs.spec", Whose.THERE),
            ("os.path", Whose.THERE),
            ("not_there.at_all", Whose.NOBODYS),
        ],
    )
    def test_whose_a_module_is(self, module: str, owner: Whose) -> None:
        assert whose(module) is owner

    def test_one_that_was_changed_since(self, own: Own, tmp_path: Path) -> None:
        own({"tickets/__init__.py": "", "tickets/scores.py": SCORES, "tickets/words.py": "STOP = ['a']\n"})
        module = importlib.import_module("tickets.scores")
        text = SCORES.replace("not in", "in")
        (tmp_path / "own" / "tickets" / "scores.py").write_text(text)
        with pytest.raises(NotSendable, match=r"tickets/scores\.py was changed since it was imported \(close is another there\)"):
            metric_of(module.close)
        importlib.reload(module)
        assert metric_of(module.close).document["files"]["tickets/scores.py"] == text

    def test_a_method_that_was_changed_since(self, own: Own, tmp_path: Path) -> None:
        text = """
import functools
class Close:
    @staticmethod
    @functools.cache
    def far():
        return 1
    def __call__(self, example, prediction, trace=None):
        return self.far() > 0
"""
        own({"tickets.py": text})
        tickets = importlib.import_module("tickets")
        assert list(metric_of(tickets.Close()).document["files"]) == ["tickets.py"]
        (tmp_path / "own" / "tickets.py").write_text(text.replace("return 1", "return 2"))
        with pytest.raises(NotSendable, match=r"Close\.far is another there"):
            metric_of(tickets.Close())

    def test_one_that_has_no_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = types.ModuleType("made_up")
        exec("def close(e, p, t=None): return True", vars(made))  # noqa: S102 - as a notebook's magic does
        monkeypatch.setitem(sys.modules, "made_up", made)
        with pytest.raises(NotSendable, match="module made_up was made at run time: there is no file of it to send"):
            metric_of(vars(made)["close"])


BY_VALUE = """
import base64, json, sys
from typing import Literal
import orjson, pydantic, dspy

LIMIT = 3

class Answer(pydantic.BaseModel):
    team: Literal["billing", "account"]

class Route(dspy.Signature):
    message: str = dspy.InputField()
    answer: Answer = dspy.OutputField()

def above(text):
    return len(text) > LIMIT

class Desk(dspy.Module):
    def __init__(self):
        super().__init__()
        self.route = dspy.ChainOfThought(Route)

    def forward(self, message):
        return self.route(message=message) if above(message) else dspy.Prediction(answer=Answer(team="account"))

def metric(example, prediction, trace=None):
    import statistics, yaml
    return orjson.dumps(statistics.mean([1])) == b'1' and prediction.answer.team == example.team

from stillhouse.bundling.collect import collect
from stillhouse.bundling.pickling import bare, pickled
desk = Desk()
desk.set_lm(dspy.LM("openai/big", api_key="secret-of-mine"))
found = collect({"program": pickled(bare(desk), "program"), "metric": pickled(metric, "metric")})
print(json.dumps([found.document, found.by_value]))
"""
OPENED = """
import base64, json, sys
import cloudpickle, dspy
from dspy.utils import DummyLM
program, metric = (cloudpickle.loads(base64.b64decode(part["data"])) for part in json.load(sys.stdin)["pickles"].values())
assert [each.lm for each in program.predictors()] == [None]
program.set_lm(DummyLM([{"reasoning": "r", "answer": '{"team": "billing"}'}]))
print([metric(dspy.Example(team="billing"), program(message=message)) for message in ("a long one", "no")])
"""


class TestByValue:
    def test_what_a_function_imports_when_it_runs(self, own: Own) -> None:
        own({"tickets/__init__.py": "", "tickets/words.py": "", "tickets/more.py": "import tickets.words\n"})
        body = "import tickets.more, yaml\n  try:\n    import not_there\n  except ImportError:\n    return yaml"
        found = metric_of(typed_in(body))
        assert list(found.document["files"]) == ["tickets/__init__.py", "tickets/more.py", "tickets/words.py"]
        assert "PyYAML" in found.document["packages"]

    def test_what_it_imports_from_beside_it(self, own: Own) -> None:
        """As in `python -m tickets.script`."""
        own({f"tickets/{name}.py": "" for name in ("__init__", "words", "lists", "other")})
        found = metric_of(typed_in("from . import lists\n  from .words import x\n  return x, lists", package="tickets"))
        assert list(found.document["files"]) == ["tickets/__init__.py", "tickets/lists.py", "tickets/words.py"]

    @pytest.mark.slow
    @pytest.mark.parametrize("typed", [False, True])
    def test_what_a_script_defines_runs_in_another_process(self, tmp_path: Path, typed: bool) -> None:
        (tmp_path / "script.py").write_text(BY_VALUE)
        arguments, script = (["-"], BY_VALUE) if typed else (["script.py"], None)
        made = subprocess.run([sys.executable, *arguments], input=script, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        document, by_value = json.loads(made.stdout)
        assert by_value == ["Desk", "Route", "Answer", "above", "metric"]
        assert "files" not in document
        assert {"dspy", "orjson", "pydantic", "PyYAML"} <= set(document["packages"])
        assert b"secret-of-mine" not in base64.b64decode(document["pickles"]["program"]["data"])
        (tmp_path / "elsewhere").mkdir()
        opened = subprocess.run(
            [sys.executable, "-c", OPENED],
            input=json.dumps(document),
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path / "elsewhere",
        )
        assert opened.stdout == "[True, False]\n", opened.stderr


class Holder(dspy.Module):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.held = held


class TestInTheWay:
    def test_it_is_named_with_its_place(self, tmp_path: Path) -> None:
        with open(tmp_path / "notes", "w") as notes:
            cases: dict[str, Any] = {
                r"program\.held is a TextIOWrapper": notes,
                r"program\.held\['a'\]\[1\] is a TextIOWrapper": {"a": [1, notes]},
                r"program\.held\.held is a lock": Holder(threading.Lock()),
                r"program\.held is a Client": httpx.Client(),
            }
            for said, held in cases.items():
                with pytest.raises(NotSendable, match=f"{said}, which cannot be sent"):
                    pickled(bare(Holder(held)), "program")

    def test_an_lm_that_no_predictor_asks(self) -> None:
        lm = dspy.LM("openai/big", api_key="k")
        inner = dspy.Predict("a -> b")
        inner.lm = lm
        for held, said in ((lm, r"program\.held"), (lambda: inner(a=1), r"program\.held → inner\.lm")):
            with pytest.raises(NotSendable, match=rf"{said} is an LM\. LMs and their keys are not sent"):
                pickled(bare(Holder(held)), "program")

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTHER_API_KEY", "sk-not-for-anybody")
        made: dict[str, Any] = {"__name__": "__main__"}
        exec("from os import environ\ndef metric(example, prediction, trace=None): return environ['HOME']", made)  # noqa: S102 - a prompt
        with pytest.raises(NotSendable, match="metric → environ is the environment of this process, which is not sent"):
            pickled(made["metric"], "metric")

    def test_a_key_that_a_program_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        key = "-".join(["sk", "of", "nobody", "else"])  # whose text is not in this file, which is sent too
        monkeypatch.setenv("OTHER_API_KEY", key)
        held = pickled(bare(Holder({"key": key})), "program")
        with pytest.raises(NotSendable, match="what is sent by value of the program holds the value of OTHER_API_KEY"):
            collect({"program": held})

    def test_the_callers_own_program_is_left_as_it_is(self) -> None:
        program = Holder(None)
        program.set_lm(dspy.LM("openai/big", api_key="k"))
        program.callbacks = [print]
        copied = bare(program)
        assert [each.lm for each in copied.predictors()] == [None]
        assert [each.lm.model for each in program.predictors()] == ["openai/big"]
        assert b"print" not in pickled(copied, "program").data
