"""Scores of answers that ask no model, beside those of a job's programs: computed in the worker that packages it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from distill.execute.context import Example, JobContext, Side
from distill.pipeline.evaluate import Outcome, reference_report
from distill.pipeline.plan import labels_of
from distill.pipeline.references import LabelField, Labelled, Predict, label_field, majority_class
from distill.storage import BlobStore

MOST_ROWS = 20_000
"""The classifier is fitted on so many rows at most, taken evenly from all."""
_AT_ONCE = 2_000


def references_of(job: JobContext, store: BlobStore, compiled: Sequence[Outcome]) -> dict[str, Any] | None:
    """`{name: report}` of the commonest label and of TF-IDF with logistic regression, fitted on the rows that were trained on and scored
    on the held-out ones; None where the rows have no labels."""
    field = _field(job, store)
    train = [] if field is None else list(_sampled(job, store, field))
    if field is None or not field.has_labels(train):
        return None
    from distill.pipeline.text_classifier import TextClassifier  # SciPy's optimiser, which this moment alone needs

    classifier = TextClassifier.fit([row.text for row in train], [row.label for row in train])
    by_name = {"majority_class": majority_class(train), "tfidf": classifier.predict}
    scores = _scores(job, store, field, by_name)
    return {name: {"field": field.name, "rows": len(train), **reference_report(found, compiled)} for name, found in scores.items() if found}


def _field(job: JobContext, store: BlobStore) -> LabelField | None:
    first = job.examples(store, "train", 0, 1)
    return label_field(job.spec.metric, job.student, list(labels_of(job.student, first[0].row))) if first else None


def _sampled(job: JobContext, store: BlobStore, field: LabelField) -> Iterator[Labelled]:
    every = ceil(job.plan.train_examples / MOST_ROWS)
    for place, example in enumerate(_examples(job, store, "train", job.plan.train_examples)):
        if place % every == 0 and (row := field.of(job.student, example.row)) is not None:
            yield row


def _scores(job: JobContext, store: BlobStore, field: LabelField, by_name: dict[str, Predict]) -> dict[str, dict[int, float]]:
    """Of each way to answer, 1 for a held-out example whose label it gives, by example."""
    found: dict[str, dict[int, float]] = {name: {} for name in by_name}
    held_out = [
        (example.index, field.of(job.student, example.row)) for example in _examples(job, store, "holdout", job.plan.holdout_examples)
    ]
    labelled = [(index, row) for index, row in held_out if row is not None]
    for name, predict in by_name.items():
        answers = predict([row.text for _, row in labelled])
        found[name] = {index: float(answer == row.label) for (index, row), answer in zip(labelled, answers, strict=True)}
    return found


def _examples(job: JobContext, store: BlobStore, side: Side, count: int) -> Iterator[Example]:
    for start in range(0, count, _AT_ONCE):
        yield from job.examples(store, side, start, min(start + _AT_ONCE, count))
