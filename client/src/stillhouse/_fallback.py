"""A loaded program whose teacher answers where its own models do not. Needs `stillhouse[dspy]`."""

from __future__ import annotations

import copy
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any

import dspy

from stillhouse._exceptions import ModelUnavailable
from stillhouse._house import lm_of
from stillhouse._stand_in import StandIn
from stillhouse_programs.artifact_files import ArtifactError

_log = logging.getLogger(__name__)


class Fallbacks:
    """How many calls the teacher was asked for."""

    def __init__(self) -> None:
        self.count = 0
        self._counting = threading.Lock()

    def add(self) -> None:
        with self._counting:
            self.count += 1


def with_teacher(program: dspy.Module, manifest: Mapping[str, Any], url: str, key: str | None, counted: Fallbacks) -> dspy.Module:
    """The program, and the same one on the LMs of its teacher for calls that meet an outage, `counted`.

    Raises ArtifactError for an artifact that does not say who taught it.
    """
    told = manifest.get("teacher")
    if not told:
        raise ArtifactError("fallback: the artifact names no teacher: its labels taught it, or an older server made it")
    teacher, made = program.deepcopy(), dict[str, dspy.LM]()
    for name, predictor in teacher.named_predictors():
        lm = told["lms"][name]
        place = json.dumps(lm, sort_keys=True)
        if place not in made:
            made[place] = lm_of(url, key, lm["model"], cache=False, **lm["options"])
        predictor.lm = made[place]
    return Taught(program, teacher, counted)


class Taught(StandIn):
    """A call whose models do not answer is made once more, as a whole, with the LMs of the teacher.

    `fallbacks` counts such calls. One that the teacher cannot answer either raises the teacher's ModelUnavailable. A copy has a teacher
    of its own, and counts for itself.
    """

    def __init__(self, program: dspy.Module, teacher: dspy.Module, counted: Fallbacks) -> None:
        super().__init__()
        self._program, self._teacher, self._counted = program, teacher, counted

    @property
    def fallbacks(self) -> int:
        return self._counted.count

    def now(self) -> dspy.Module:
        return self._program

    def deepcopy(self) -> Any:
        return Taught(self._program.deepcopy(), self._teacher.deepcopy(), Fallbacks())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return Taught(copy.deepcopy(self._program, memo), copy.deepcopy(self._teacher, memo), Fallbacks())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._program(*args, **kwargs)
        except ModelUnavailable as outage:
            self._note(outage)
        return self._teacher(*args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._program.acall(*args, **kwargs)
        except ModelUnavailable as outage:
            self._note(outage)
        return await self._teacher.acall(*args, **kwargs)

    def _note(self, outage: ModelUnavailable) -> None:
        self._counted.add()
        _log.warning("%s; the teacher is asked instead", outage)
