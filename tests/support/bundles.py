"""Bundles of users, as clients send them."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping
from typing import Any

import cloudpickle

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

DESK = {
    "desk/__init__.py": "",
    "desk/programs.py": """
from pathlib import Path
from typing import Literal

import dspy
import pydantic

from desk.words import TEAMS


class Answer(pydantic.BaseModel):
    team: Literal["billing", "technical", "account"]
    urgent: bool = False


class Desk(dspy.Module):
    def __init__(self, rounds: int = 1) -> None:
        super().__init__()
        self.route = dspy.Predict("message -> team")
        self.write = dspy.Predict("message, draft -> answer")
        self.rounds = rounds

    def forward(self, message: str) -> dspy.Prediction:
        team = self.route(message=message).team
        answer = Path(__file__).with_name("hello.txt").read_text()
        for _ in range(self.rounds if team in TEAMS else 0):
            answer = self.write(message=message, draft=answer).answer
        return dspy.Prediction(team=team, answer=answer)
""",
    "desk/words.py": 'TEAMS = ("billing", "technical", "account")\n',
    "desk/hello.txt": "Hello.",
    "desk/scores.py": """
import numpy

from desk.words import TEAMS


def right(example, prediction, trace=None):
    return float(numpy.mean([prediction.team == example.team, prediction.team in TEAMS]))
""",
}


def bundle(files: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A document; the desk's files unless others are given."""
    return {"bundle_version": 1, "python": PYTHON, "files": dict(DESK if files is None else files), **more}


def by_value(what: Any, makes: str = "program") -> dict[str, str]:
    """A pickle of a bundle; the code of the tests goes along, since the server has none of it."""
    out = io.BytesIO()
    module = sys.modules.get(getattr(what, "__module__", None) or type(what).__module__)
    own = module is not None and module.__name__.startswith("tests")
    if own:
        cloudpickle.register_pickle_by_value(module)
    try:
        cloudpickle.dump(what, out)
    finally:
        if own:
            cloudpickle.unregister_pickle_by_value(module)
    return {"makes": makes, "data": base64.b64encode(out.getvalue()).decode()}
