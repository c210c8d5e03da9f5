"""What a caller may ask for, as keyword arguments; each is explained in the server's own documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from typing_extensions import Required, TypedDict


class JobCreateParams(TypedDict, total=False):
    """Arguments of `compile_jobs.create`. What is left out, the server fills in and returns."""

    program: Required[str | Mapping[str, Any]]
    trainset: Required[str | Sequence[Mapping[str, Any]]]
    valset: str | Sequence[Mapping[str, Any]] | None
    holdout: Mapping[str, Any] | None
    metric: str | Mapping[str, Any]
    name: str | None
    program_name: str | None
    project: str | None
    lms: Mapping[str, Mapping[str, Any]]
    teacher: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str | None
    filter: Mapping[str, Any]
    rollouts: Mapping[str, Any]
    smoke_test: Mapping[str, Any] | None
    multitask: bool
    demos: str
    prompt_adapter: str | Mapping[str, Any]
    prompt: Literal["compact", "full", "auto"]
    train_options: Mapping[str, Any]
    num_threads: int
    priority: int
    render: Literal["student", "teacher"]
    rows: Literal["own", "all"]
    evaluate: Mapping[str, Any]
    budget: Mapping[str, Any]
    seed: int
    suffix: str
    auto_start: bool
    metadata: Mapping[str, str]


class JobUpdateParams(TypedDict, total=False):
    """Arguments of `compile_jobs.update`. `budget`: limits that are left out stay, None takes a limit away."""

    name: str
    priority: int
    metadata: Mapping[str, str]
    budget: Mapping[str, int | float | None]


class RefilterParams(TypedDict, total=False):
    """Arguments of `compile_jobs.refilter`: what is to be other than in the job whose traces are used."""

    filter: Mapping[str, Any]
    prompt_adapter: str | Mapping[str, Any]
    prompt: Literal["compact", "full", "auto"]
    demos: str
    lms: Mapping[str, Mapping[str, Any]]
    train_options: Mapping[str, Any]
    multitask: bool
    render: Literal["student", "teacher"]
    rows: Literal["own", "all"]
    seed: int
    evaluate: Mapping[str, Any]
    name: str | None
    program_name: str
    suffix: str
    auto_start: bool
    metadata: Mapping[str, str]


class ListParams(TypedDict, total=False):
    """A page's size (at most 100), where it starts, its direction, and after which second its objects were made."""

    limit: int
    after: str
    order: str
    created_after: int


class TaggedListParams(ListParams, total=False):
    """Of objects that have metadata."""

    metadata: Mapping[str, str]


class JobListParams(TaggedListParams, total=False):
    """Filters of `compile_jobs.list`."""

    status: str
    step: str
    program: str
    project: str
    """For operators: a project's name or id, or `*` for all."""
    created_by: str


class CancelManyParams(TypedDict, total=False):
    """Which open jobs `compile_jobs.cancel_all` stops; at least one is given. `created_by` is `me`, or a key's id or label; `project`,
    for operators, a project's name or id, or `*` for all."""

    created_by: str
    program: str
    status: str
    project: str
