"""What tells sent code from other code: the same in every process, another as soon as anything that it uses is another."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from stillhouse.bundling.document import MAX_BYTES
from stillhouse.bundling.pickling import too_large
from stillhouse.dropin.sent_identity import describe_sent, identity_if_sent

SCRIPT = '''
import collections, enum, functools
from dataclasses import dataclass, field
import dspy, pydantic
from tickets import words

class Team(enum.Enum):
    BILLING = "billing"

class Item(pydantic.BaseModel):
    price: float = pydantic.Field(default=1.0, ge=0)

class Answer(pydantic.BaseModel):
    team: Team
    items: list[Item]

class Route(dspy.Signature):
    """Route it."""
    message: str = dspy.InputField()
    answer: Answer = dspy.OutputField(desc="an answer")

@dataclass
class Rule:
    words: set = field(default_factory=lambda: {"a", "b", "c"})

class Base:
    _limit = 3
    @property
    def limit(self):
        return self._limit

def helper(text):
    return inner(text) + 1

def inner(text):
    return len(text) % 7

class Desk(dspy.Module, Base):
    def __init__(self):
        super().__init__()
        self.route = dspy.Predict(Route)
        self.rule = Rule()
        self.table = collections.deque([1, 2])

    def forward(self, message):
        return self.route(message=message) if helper(message) in {"x", "y", self.limit} else words.clean(message)

def metric(example, prediction, trace=None, *, slack=0.1):
    return helper(prediction.answer) > slack

from stillhouse.bundling.collect import collect
from stillhouse.bundling.pickling import bare, pickled
from stillhouse.dropin.sent_identity import describe_sent, identity_of
desk = bare(Desk())
found = collect({"program": pickled(desk, "program"), "metric": pickled(metric, "metric")})
print(identity_of(found.document, describe_sent([desk, metric])))
'''
WORDS = "STOP = {'the'}\n\ndef clean(text):\n    return text\n"
CHANGES = {
    "a helper of a helper": ("% 7", "% 8"),
    "a default of the metric": ("slack=0.1", "slack=0.2"),
    "an attribute of a class above": ("_limit = 3", "_limit = 4"),
    "a member of an enum": ('BILLING = "billing"', 'BILLING = "bills"'),
    "a bound of a field of a type inside of a type": ("ge=0", "ge=1"),
    "a default of that field": ("default=1.0", "default=2.0"),
    "an instruction": ("Route it.", "Route it well."),
    "a description": ("an answer", "the answer"),
    "a value that it holds": ("deque([1, 2])", "deque([1, 3])"),
    "what makes another value": ('{"a", "b", "c"}', '{"a", "b"}'),
}


FORKS = """
import json, os, sys
import dspy, pydantic, cloudpickle
import stillhouse.bundling.collect, stillhouse.dropin.sent_identity
for script in json.load(sys.stdin):
    child = os.fork()
    if not child:
        exec(compile(script, "script.py", "exec"), vars(sys.modules["__main__"]))
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


def printed(folder: Path, *arguments: str, typed: str | None = None, seed: str = "0") -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, *arguments], input=typed, capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tickets").mkdir()
    (tmp_path / "tickets" / "words.py").write_text(WORDS)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


@pytest.mark.slow
class TestIdentity:
    def test_it_is_the_same_in_every_process(self, folder: Path) -> None:
        """In a file, typed in, and whatever order Python gives to sets."""
        (first,) = printed(folder, "script.py")
        assert len(first) == 64
        assert printed(folder, "-", typed=SCRIPT, seed="1") == printed(folder, "script.py", seed="77") == [first]

    def test_it_is_another_after_every_change(self, folder: Path) -> None:
        remark = SCRIPT.replace("def helper(text):", "def helper(text):  # a remark")
        changed = [SCRIPT.replace(*change) for change in CHANGES.values()]
        first, remarked, *others = printed(folder, "-c", FORKS, typed=json.dumps([SCRIPT, remark, *changed]))
        assert first == remarked
        assert [what for what, found in zip(CHANGES, others, strict=True) if found == first] == []
        assert len(set(others)) == len(CHANGES)
        (folder / "tickets" / "words.py").write_text(WORDS.replace("return text", "return text[1:]"))
        assert printed(folder, "script.py") != [first], "a module that is sent is another"


def typed(text: str) -> Any:
    """What a prompt has made of this text, under the name `it`."""
    made: dict[str, Any] = {"__name__": "__main__"}
    exec(text, made)  # noqa: S102 - as a notebook does
    return made["it"]


SAME_BYTES = {
    "what is caught": (
        "def it(e, p):\n try:\n  one()\n  two()\n except Exception:\n  return 1\n",
        "def it(e, p):\n try:\n  one()\n except Exception:\n  return 1\n else:\n  two()\n",
    ),
    "an argument by name alone": ("def it(e, p): return e", "def it(e, *, p): return e"),
    "as many arguments as come": ("def it(e): return e", "def it(*e): return e"),
    "the same, inside of a method": ("class it:\n def f(self, e): return e", "class it:\n def f(self, *e): return e"),
    "a method of a word": (
        "class Word(str):\n def f(self): return 1\nit = Word('a')",
        "class Word(str):\n def f(self): return 2\nit = Word('a')",
    ),
    "a method of a table": (
        "class Table(dict):\n def f(self): return 1\nit = Table(a=1)",
        "class Table(dict):\n def f(self): return 2\nit = Table(a=1)",
    ),
}


class TestToldApart:
    """Where what comes first to mind is the same: the bytes of the code, the attributes, the text that is shown."""

    @pytest.mark.parametrize("what", SAME_BYTES)
    def test_code(self, what: str) -> None:
        one, other = SAME_BYTES[what]
        assert describe_sent(typed(one)) == describe_sent(typed(one))
        assert describe_sent(typed(one)) != describe_sent(typed(other))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (random.Random(1), random.Random(2)),
            (defaultdict(int), defaultdict(list)),
            (Counter(a=1), {"a": 1}),
            (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
        ],
        ids=["a state", "what makes a value", "a kind of table", "a long pattern"],
    )
    def test_values(self, one: Any, other: Any) -> None:
        assert describe_sent([one]) == describe_sent([one])
        assert describe_sent([one]) != describe_sent([other])

    def test_what_a_derived_queue_holds(self) -> None:
        kind = typed("import collections\nclass it(collections.deque): pass")
        assert describe_sent(kind([1])) != describe_sent(kind([2]))


class Watched:
    """Counts how often it is copied or pickled."""

    def __init__(self) -> None:
        self.times = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.times += 1
        return Watched, ()


class Holding(dspy.Module):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.held = held

    def forward(self, question: str) -> Any:
        return self.ask(question=question)


def test_data_beyond_what_a_bundle_holds_is_neither_copied_nor_pickled() -> None:
    def held(size: int) -> tuple[str | None, int]:
        last = Watched()
        program = Holding([b"x" * size, last])
        program.set_lm(dspy.LM("house/tiny"))
        return identity_if_sent(program), last.times

    assert held(MAX_BYTES) == (None, 0)
    assert too_large(Holding(np.zeros(MAX_BYTES, dtype=np.uint8)))
    identity, times = held(10)
    assert identity is not None
    assert times > 0
