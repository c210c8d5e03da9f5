"""What the held-out examples said, by role and one by one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from app.schemas.common import Reply

Change = Literal["fix", "regression", "same", "undecided"]


class EvaluationsRead(Reply):
    """Scores with 95 % intervals, by role, and the verdict on the compiled program.

    `undecided` counts the examples that could not be run; they are not in `n`.
    """

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    has_more: Literal[False] = False
    n: int | None
    metric: str | None
    delta: dict[str, Any] | None
    references: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Answers that ask no model, fitted on the same rows: `majority_class` and `tfidf`, each with the compiled program's "
        "`delta` to it. Empty where the rows have no labels",
    )
    note: str | None = Field(default=None, description="Why no verdict is possible, where none is")


class AnswerRead(Reply):
    """What one role answered. `score` is null where nobody could decide; a failed answer scores 0."""

    role: str
    status: str
    score: float | None
    outputs: dict[str, Any] | None
    message: str | None = Field(description="What went wrong, where something did")
    seconds: float | None
    usage: dict[str, Any]
    trace: str | None


class PairRead(Reply):
    """One held-out example under two roles. `fix`: the compiled program scores higher; `regression`: lower."""

    object: Literal["evaluation.pair"] = "evaluation.pair"
    cursor: str = Field(description="Send it as `after` for the page after")
    row: int = Field(description="1-based row of the dataset")
    dataset: str
    data: dict[str, Any] = Field(description="The row: inputs and labels")
    change: str = Field(description="fix, regression, same or undecided")
    difference: float | None
    compiled: AnswerRead
    against: AnswerRead
