"""`stillhouse.derive`: what it returns is proved."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import stillhouse
from stillhouse_programs.not_a_spec import NotASpec

SAMPLE = {"message": "I was charged twice."}


class Support(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sort = dspy.Predict("message -> team")
        self.reply = dspy.Predict("message, team -> answer")

    def forward(self, message: str) -> dspy.Prediction:
        return self.reply(message=message, team=self.sort(message=message).team)


class Counting(Support):
    """Does something else every time, which symbols do not show."""

    runs = 0

    def forward(self, message: str) -> dspy.Prediction:
        Counting.runs += 1
        return self.reply(message=message, team=f"{self.sort(message=message).team} {Counting.runs}")


class Chatty(Support):
    """Treats one input as no other."""

    def forward(self, message: Any) -> dspy.Prediction:
        team = "nobody" if message is GREETING["message"] else self.sort(message=message).team
        return self.reply(message=message, team=team)


GREETING = {"message": "Hello."}


def test_a_straight_program_is_a_spec() -> None:
    derived = stillhouse.derive(Support(), SAMPLE)
    assert [step["predictor"] for step in derived["steps"]] == ["sort", "reply"]


def test_a_program_that_does_not_repeat_itself_is_refused() -> None:
    with pytest.raises(NotASpec, match="does something else"):
        stillhouse.derive(Counting(), SAMPLE)


def test_a_row_shows_a_branch_that_the_sample_does_not_reach() -> None:
    assert stillhouse.derive(Chatty(), SAMPLE)
    with pytest.raises(NotASpec, match="sample 2"):
        stillhouse.derive(Chatty(), SAMPLE, rows=[GREETING])
