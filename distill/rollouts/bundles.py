"""Bundles of projects, as runners get them: which ones a request names, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill.rollouts.errors import RunnerError
from distill.rollouts.events import Json

BundleSource = Callable[[str, str], Json]
"""The document of a project's bundle, by project and digest. Raises RunnerError for one that is not the project's, or was deleted."""


def no_bundle_of(project: str, digest: str) -> Json:
    """Where there are none. Raises RunnerError."""
    raise RunnerError("bundle_not_found", "the bundle of this code is not here", "bundle")


def named_bundles(body: Json) -> list[str]:
    """Digests, each once, in a request to a runner: of its program, teachers and metric, or of what is to be described.

    What is no object is left for the runner to refuse.
    """
    programs = [_object(each).get("program") for each in (body, *body.get("teachers", ()))]
    code = [body, *(_object(program).get("reference") for program in programs), body.get("metric")]
    return list(dict.fromkeys(digest for each in code if (digest := _object(each).get("bundle"))))


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
