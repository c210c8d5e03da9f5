"""Metrics of the same package."""

from collections.abc import Callable
from typing import Any

import dspy

from support_desk.teams import Team


def right_team(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None, ignore: str = "") -> bool:
    """Whether the team is the labelled one. Teams come typed, as the program returned them."""
    assert isinstance(prediction.team, Team)
    return bool(prediction.team.value in (example.team, ignore))


def right_desk(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    """Whether the tool was asked once, about the labelled team."""
    return bool(prediction.desks == [f"{example.team} desk"])


def at_most(calls: int) -> Callable[[Any, Any, Any], bool]:
    """A metric over the trace."""

    def short_enough(example: dspy.Example, prediction: dspy.Prediction, trace: Any) -> bool:
        return len(trace) <= calls

    return short_enough


def nonsense(example: dspy.Example) -> bool:
    return bool(example)


def without_trace(example: Any, prediction: Any) -> bool:
    return bool(example.team == prediction.team)
