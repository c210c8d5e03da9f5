"""Bundles of projects, as runners get them: which ones a request names, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def divided(questions: Json) -> list[Json]:
    """A `validate` request as several, the student's first: each for one process, which holds a program's bundle and the metric's."""
    shared: Json = {name: questions[name] for name in ("samples", "metric") if name in questions}
    student = {name: value for name, value in questions.items() if name not in ("teachers", *shared)}
    groups: dict[frozenset[str], list[Json]] = {}
    for program in (student, *questions.get("teachers", ())):
        groups.setdefault(frozenset(named_bundles({**program, **shared})), []).append(program)
    return [{**first, "teachers": others, **shared} for first, *others in groups.values()]


def joined(replies: Iterable[Json]) -> Json:
    """What runners say of the parts of a `validate` request, as one would have said it of the whole."""
    first, *others = replies
    for name in ("prompt_hash", "program_state"):
        for other in others:
            first[name] = {**other[name], **first[name]}
    return first


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
