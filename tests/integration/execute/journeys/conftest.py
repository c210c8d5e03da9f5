"""A live server as the journeys' readers have it: an address, a key, a small student in the house and a provider's model as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill.catalog import keys, projects
from distill.db import unit_of_work
from tests.integration.api.conftest import serving
from tests.integration.execute.house import CATEGORIES, House, at_work, configured
from tests.support.scripted_lm import Answer, Ask, ScriptedLM

STUDENT = "smollm2-135m-instruct"
TEACHER = "gpt-4.1-mini"
SETTINGS = f"""
[timers]
call_total_seconds = 2
call_pause_seconds = 0.05

[connections.openai]
base_url = "{{teacher}}"
models = ["{TEACHER}"]
default_teacher = true

[connections.house]
base_url = "{{student}}"
models = ["{STUDENT}"]
default_student = true
supports = ["structured_outputs", "lora", "tools"]
trainer = "local"
"""


def knows(ask: Ask) -> Answer:
    """The category stands at the end of the message; all else is about billing."""
    said = ask.inputs.get("message", ask.text).split()[-1]
    category = said if said in CATEGORIES else "billing"
    return {"category": category} if "category" in ask.outputs else {"answer": f"Team {category} will help."}


def guesses(ask: Ask) -> Answer:
    """Always `account`, until it is asked as a fine-tuned model."""
    return knows(ask) if ask.model.startswith("sh-") else {"category": "account"} if "category" in ask.outputs else {"answer": "Hm."}


@pytest.fixture
def teacher() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=knows) as lm:
        yield lm


@pytest.fixture
def student() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=guesses) as lm:
        yield lm


@dataclass(frozen=True)
class Live:
    """A server whose workers are at work, until it is stopped."""

    url: str
    house: House
    stop: Callable[[], None]

    def key(self, *scopes: str) -> str:
        with unit_of_work() as s:
            return keys.create(s, projects.ensure(s, "default").id, "journey", scopes)[1]


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, SETTINGS, teacher, student, base_model=STUDENT) as opened:
        yield opened


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which somebody works with caches of their own."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def live(house: House, desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """The address and a key that may do everything but administer stand in the environment."""
    with ExitStack() as running:
        url = running.enter_context(serving())
        running.enter_context(at_work(house))
        made = Live(url, house, running.close)
        monkeypatch.setenv("STILLHOUSE_BASE_URL", url)
        monkeypatch.setenv("STILLHOUSE_API_KEY", made.key("jobs:read", "jobs:write", "aliases:write", "models:use"))
        yield made
