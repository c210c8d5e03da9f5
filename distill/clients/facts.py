"""Traces and scores that a client sends in, stored as the project's facts under digests that are made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from distill.catalog import scores, traces, usage
from distill.catalog.scores import NewScore
from distill.catalog.traces import NewTrace, StoredTrace
from distill.catalog.usage import NewUsage
from distill.clients.slots import Slots
from distill.db import Session
from distill.errors import Conflict, Detail, Invalid
from distill.execute import context as contexts
from distill.execute.context import Example, JobContext
from distill.execute.rollout_slice import Item, Slice
from distill.jobs import repository
from distill.pipeline.costs import Asked, priced, slots_of
from distill.pipeline.costs import saved as priced_anew
from distill.pipeline.holdout import numbered
from distill.pipeline.plan import roles_to_evaluate
from distill.pipeline.roles import teacher_roles
from distill.scrubbing import same_but_for_numbers
from distill.storage import BlobStore

Json = dict[str, Any]
Source = Literal["client", "import"]


@dataclass(frozen=True)
class Place:
    """Which rollout of which example, under which role; `index` is the 0-based row of the role's dataset."""

    role: str
    index: int
    n: int


@dataclass(frozen=True)
class Told:
    """One trace or score, as JSON, and where it belongs."""

    place: Place
    body: Json


def store_traces(s: Session, store: BlobStore, project_id: str, job_id: str, told: Sequence[Told], source: Source) -> int:
    """Store what is not there yet; returns how much that was. One without an answer scores 0, and no metric is asked.

    Raises NotFound, Conflict, Invalid.
    """
    rows: list[NewTrace] = []
    places: list[tuple[_Found, int]] = []
    for at, each, found in _found(s, store, project_id, job_id, told, "traces"):
        body = _priced({**each.body, "inputs": found.item.io.inputs}, found.slots, at)
        rows.append(found.piece.take_trace(found.item, each.place.n, body, source))
        places.append((found, each.place.n))
    new = traces.store(s, rows)
    heads = traces.heads(s, project_id, [row.digest for row in rows])
    scores.store(s, _scores_of_no_answer(places, heads))
    if source == "client":
        told_of = zip(rows, places, strict=True)
        _record_paid(s, job_id, [(row, found) for row, (found, _) in told_of if heads[row.digest][0] == row.id])
    return new


def _scores_of_no_answer(places: Sequence[tuple[_Found, int]], heads: Mapping[str, tuple[str, str]]) -> list[NewScore]:
    """By what is stored: another client's answer may have been there first, and is to be judged."""
    rows = []
    for found, n in places:
        _, status = heads[found.piece.names[found.item.digests[n]]]
        if status != "ok":
            rows.append(found.piece.score_without_answer(found.item, n, status))
    return rows


def _record_paid(s: Session, job_id: str, new: Sequence[tuple[NewTrace, _Found]]) -> None:
    """When it comes, whatever becomes of the work item: what is stored is told once, and was paid for by then."""
    for role, group in groupby(new, key=lambda each: each[1].piece.role):
        some = list(group)
        row, found = some[0]
        number = usage.number_without_claim(s)
        spent = priced_anew([each.body for each, _ in some], found.slots.values())
        usage.record(s, [NewUsage(number, 0, "paid", model, row.project_id, job_id, role, **asdict(one)) for model, one in spent.items()])


@dataclass(frozen=True)
class ScoresStored:
    """How many were not there yet, and how many judged another answer than the one that is stored."""

    new: int
    skipped: int


def store_scores(s: Session, store: BlobStore, project_id: str, job_id: str, told: Sequence[Told]) -> ScoresStored:
    """Store what judges the stored answer and is not there yet, or has failed: a client's metric may ask a judge that answers next time.

    Raises as `store_traces`, and Invalid for a score without its trace.
    """
    rows: list[NewScore] = []
    judged: list[_Judged] = []
    for _, each, found in _found(s, store, project_id, job_id, told, "scores"):
        rows.append(found.piece.take_score(found.item, each.place.n, each.body))
        judged.append(_Judged(found.piece.job, found.item.io.inputs, each.body["outputs"]))
    known = traces.known(s, project_id, [row.trace_digest for row in rows])
    lacking = [each.place for each, row in zip(sorted(told, key=_role), rows, strict=True) if row.trace_digest not in known]
    if lacking:
        details = tuple(Detail(f"rollout {place.n} of {place.role} has no trace", row=place.index + 1) for place in lacking)
        raise Invalid("scores: a score belongs to a trace; send the traces first", code="unknown_trace", param="scores", details=details)
    pairs = list(zip(rows, judged, strict=True))
    stored = traces.lookup(s, project_id, [row.trace_digest for row, answer in pairs if answer.outputs is not None])
    fitting = [row for row, answer in pairs if answer.is_of(stored.get(row.trace_digest))]
    return ScoresStored(scores.store(s, fitting, over_failed=True), len(rows) - len(fitting))


@dataclass(frozen=True)
class _Judged:
    """What a score says that it judged: it may name no `outputs`."""

    job: JobContext
    inputs: Json
    outputs: Any

    def is_of(self, trace: StoredTrace | None) -> bool:
        """Whether these are the outputs of the stored trace, which may be without its personal data: some is known by the inputs alone."""
        if self.outputs is None or trace is None:
            return True
        if self.job.scrub is None:
            return bool(self.outputs == trace.body["outputs"])
        told, known = self.job.scrubbed([self.inputs, self.outputs]), self.job.scrubbed([trace.body["inputs"], trace.body["outputs"]])
        return same_but_for_numbers(told[1], known[1])


@dataclass(frozen=True)
class _Found:
    piece: Slice
    slots: Mapping[str, Asked]
    item: Item


def _found(
    s: Session, store: BlobStore, project_id: str, job_id: str, told: Sequence[Told], param: str
) -> Iterator[tuple[int, Told, _Found]]:
    """What was told, role by role, with its position and the example that it is about."""
    repository.get(s, project_id, job_id)
    job = contexts.load(s, job_id)
    if job.stored_plan is None:
        raise Conflict(f"job {job_id} is not validated yet, and has no prompts to tell its traces by; wait for its bootstrap")
    order = {id(each): at for at, each in enumerate(told)}
    for role, group in groupby(sorted(told, key=_role), key=_role):
        some = list(group)
        piece, slots, items = _opened(s, store, job, role, some, order, param)
        for each in some:
            item = items[each.place.index]
            if each.place.n >= len(item.digests):
                place = f"{param}[{order[id(each)]}].rollout"
                raise Invalid(f"{place}: {role} has {len(item.digests)} rollouts an example, counted from 0", param=place)
            yield order[id(each)], each, _Found(piece, slots, item)


def _role(told: Told) -> str:
    return told.place.role


def _opened(
    s: Session, store: BlobStore, job: JobContext, role: str, some: Sequence[Told], order: Mapping[int, int], param: str
) -> tuple[Slice, Mapping[str, Asked], Mapping[int, Item]]:
    if not _is_cast(job, role):
        place = f"{param}[{order[id(some[0])]}].role"
        raise Invalid(f"{place}: the job has no such role now", code="unknown_role", param=place)
    numbers = sorted({each.place.index for each in some})
    piece = Slice(job, role, _examples(job, store, role, numbers, param))
    piece.find(s)
    return piece, Slots.of(s, piece).by_model, {item.example.index: item for item in piece.items}


def _is_cast(job: JobContext, role: str) -> bool:
    """Whether the job runs the program under this role, and could do so now: the compiled one waits for its models."""
    if role not in (*teacher_roles(job.spec), *roles_to_evaluate(job.spec, job.plan.holdout_from)) or job.taught_by_labels(role):
        return False
    try:
        job.cast(role)
    except KeyError:
        return False
    return True


def _examples(job: JobContext, store: BlobStore, role: str, numbers: Sequence[int], param: str) -> list[Example]:
    of_valset = job.side_of(role) == "holdout" and job.plan.holdout_from == "valset"
    dataset = job.valset if of_valset and job.valset is not None else job.trainset
    beyond = [number for number in numbers if number >= dataset.row_count]
    if beyond:
        details = tuple(Detail("there is no such row", row=number + 1) for number in beyond)
        message = f"{param}: the dataset of {role} has {dataset.row_count} rows"
        raise Invalid(message, code="invalid_rows", param=param, details=details)
    rows = job.rows(store, dataset, numbers[0], numbers[-1] + 1)
    return [Example(number, row) for number, row in numbered(rows, numbers, numbers[0])]


def _priced(body: Json, slots: Mapping[str, Asked], at: int) -> Json:
    strange = sorted(slots_of(body) - slots.keys())
    if strange:
        place = f"traces[{at}]"
        raise Invalid(f"{place}: the role asks {' and '.join(slots)}, and no other LM", code="unknown_lm", param=place)
    return priced(body, slots)
