"""A loaded program whose teacher answers where its own models do not. Needs `stillhouse[dspy]`."""

from __future__ import annotations

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


def with_teacher(program: dspy.Module, manifest: Mapping[str, Any], url: str, key: str | None) -> dspy.Module:
    """The program, and the same one on the LMs of its teacher for calls that meet an outage.

    Raises ArtifactError for an artifact that does not say who taught it.
    """
    told = manifest.get("teacher")
    if not told:
        raise ArtifactError("fallback: the artifact names no teacher: its labels taught it, or an older server made it")
    teacher = program.deepcopy()
    for name, predictor in teacher.named_predictors():
        lm = told["lms"][name]
        predictor.lm = lm_of(url, key, lm["model"], cache=False, **lm["options"])
    return Taught(program, teacher)


class Taught(StandIn):
    """A call whose models do not answer is made once more, as a whole, with the LMs of the teacher.

    `fallbacks` counts such calls. One that the teacher cannot answer either raises the teacher's ModelUnavailable.
    """

    def __init__(self, program: dspy.Module, teacher: dspy.Module) -> None:
        super().__init__()
        self._program, self._teacher = program, teacher
        self.fallbacks = 0
        self._counting = threading.Lock()

    def now(self) -> dspy.Module:
        return self._program

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
        with self._counting:
            self.fallbacks += 1
        _log.warning("%s; the teacher is asked instead", outage)
