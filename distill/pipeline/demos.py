"""`demos: "auto"`: whether the student keeps its demos is decided by its own scores with and without them, before it is trained.

Demos that lack a field are left out either way. The trial runs on rows that are trained on, never on held-out ones, and not on rows
that a demo shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from distill.pipeline.roles import compiled_program
from distill.spec import CompileSpec
from stillhouse_programs.spec import ProgramSpec

EXAMPLES = 50
"""At most so many: enough to see demos that help or harm a lot, and few beside a teacher's calls."""


class Trial(BaseModel):
    """What came of it: mean scores over the `examples` that were judged both ways. None where there were none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taken: Literal["keep", "drop"]
    examples: int
    keep: float | None
    drop: float | None

    def as_json(self) -> dict[str, Any]:
        return {"taken": self.taken, "why": self.why, **self.model_dump(include={"examples", "keep", "drop"})}

    @property
    def why(self) -> str:
        if not self.examples or self.keep is None or self.drop is None:
            return "Demos are kept: no example could be scored with and without them."
        kept = "kept" if self.taken == "keep" else "dropped"
        scores = f"the student before training scores {self.keep:.3f} with them and {self.drop:.3f} without, on {self.examples} examples"
        return f"Demos are {kept}: {scores} of the trainset."


def is_tried(spec: CompileSpec, student: ProgramSpec) -> bool:
    """Whether there is something to choose: rows with the teacher's prompts have the teacher's demos, as in DSPy. A program that its
    client runs keeps its demos untried."""
    open_to_both = spec.demos == "auto" and spec.render == "student" and not spec.rollouts.by_client
    return open_to_both and any(each.demos for each in compiled_program(spec, student).predictors)


def choose(keep: Mapping[int, float | None], drop: Mapping[int, float | None]) -> Trial:
    """The better of the two, by the scores of examples that have one both ways; demos that make no difference stay, as they were given."""
    pairs = [(score, drop[at]) for at, score in keep.items() if score is not None and drop.get(at) is not None]
    if not pairs:
        return Trial(taken="keep", examples=0, keep=None, drop=None)
    with_them, without = (sum(float(pair[side] or 0.0) for pair in pairs) / len(pairs) for side in (0, 1))
    return Trial(taken="drop" if without > with_them else "keep", examples=len(pairs), keep=with_them, drop=without)


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the places 0 to `count`, evenly apart: a trainset may be sorted by its labels."""
    return sorted({at * count // wanted for at in range(wanted)}) if count > wanted else list(range(count))
