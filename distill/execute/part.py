"""The rows of one slice: their text goes to a blob, what is known about each to the database."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distill.catalog import row_facts
from distill.catalog.row_facts import NewFact
from distill.pipeline.labels import Choices, labels_of_call
from distill.storage import BlobWriter
from distill.trainers.base import RowTokens

_TEXT = ("prompt", "completion", "tools", "digest")


@dataclass(frozen=True)
class Passed:
    """A rollout that may become rows. `inputs` and `group` are digests: of the example's inputs, and of what stays on one side."""

    example: int
    n: int
    digest: str
    inputs: str
    group: str
    score: float | None
    trace: dict[str, Any]


@dataclass(frozen=True)
class Counted:
    """A rendered row's tokens, and the most that it may have."""

    tokens: RowTokens
    longest: int

    @property
    def fault(self) -> tuple[str, str] | None:
        """Reason and message where the row cannot be trained on."""
        tokens = self.tokens
        if tokens.fault is not None:
            return "not_trainable", tokens.fault
        if tokens.total <= self.longest:
            return None
        parts = f"prompt {tokens.prompt}, completion {tokens.completion}"
        return "too_long", f"The row has {tokens.total} tokens ({parts}); max_seq_length is {self.longest}. Rows are never cut."


@dataclass
class Part:
    """The rows of a slice in the making. `choices` names each predictor's output fields with a closed set of values."""

    job_id: str
    role: str
    out: BlobWriter
    choices: Choices
    facts: list[NewFact] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=lambda: Counter(kept=0, rejected=0, tokens=0))

    def keep(self, passed: Passed, event: Mapping[str, Any], counted: Counted) -> None:
        """A rendered call, unless it cannot be trained on."""
        if counted.fault is not None:
            self.reject(passed, event, *counted.fault, data=_tokens(counted))
            return
        row = {name: event[name] for name in _TEXT if name in event}
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        data: dict[str, Any] = {"group": passed.group, "offset": self.out.size_bytes, "length": len(line), **_tokens(counted)}
        if passed.inputs != passed.group:
            data["inputs"] = passed.inputs
        if labels := labels_of_call(self.choices.get(event["predictor"], ()), _outputs(passed, event)):
            data["labels"] = labels
        self.out.write(line)
        self.counts["kept"] += 1
        self.counts["tokens"] += counted.tokens.total
        self.facts.append(self._fact("kept", passed, event, row_digest=event["digest"], data=data))

    def reject(self, passed: Passed, event: Mapping[str, Any], reason: str, message: str, data: dict[str, Any] | None = None) -> None:
        """A call that gives no row."""
        self.counts["rejected"] += 1
        self.counts[f"rejected.{reason}"] += 1
        self.facts.append(self._fact("rejected", passed, event, reason=reason, message=message, data=data))

    def _fact(self, kind: row_facts.Kind, passed: Passed, event: Mapping[str, Any], **more: Any) -> NewFact:
        return NewFact(
            self.job_id,
            kind,
            self.role,
            passed.example,
            passed.n,
            kind,
            call=event["call"],
            predictor=event["predictor"],
            trace_digest=passed.digest,
            score=passed.score,
            **more,
        )

    def finished(self) -> list[NewFact]:
        """The facts, once the blob is complete: each kept row says where its text is."""
        return [_placed(fact, self.out.digest) if fact.kind == "kept" else fact for fact in self.facts]


def _tokens(counted: Counted) -> dict[str, Any]:
    return {"tokens": [counted.tokens.prompt, counted.tokens.completion]}


def _outputs(passed: Passed, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    outputs: Mapping[str, Any] | None = passed.trace["calls"][event["call"]].get("outputs")
    return outputs


def _placed(fact: NewFact, part: str) -> NewFact:
    return replace(fact, data={**(fact.data or {}), "part": part})
