"""Which traces become training rows, and which of those rows go into which training file."""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from distill.pipeline.holdout import place
from distill.pipeline.keys import Key, key_of
from distill.pipeline.refusals import Reason, no_rows_for_predictor, no_rows_kept

VALIDATION_FRACTION = 0.1
FEWEST_ROWS_TO_VALIDATE = 50
FEWEST_ROWS_TO_WATCH = 2
"""When early stopping is asked for: it needs rows that are not trained on."""
MOST_VALIDATION_ROWS = 256


@dataclass(frozen=True)
class Filter:
    """Which rows are kept: the bar, at most `top_k` traces of equal inputs, at most `max_rows` rows a key, no two equal rows."""

    min_score: float = 1.0
    top_k: int | None = None
    max_rows: int | None = None
    dedup: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """The facts of one rendered row; its text stays where `ref` says. `order` is (teacher, example, rollout, call)."""

    predictor: str
    digest: str
    trace_digest: str
    group: str
    score: float | None
    order: tuple[int, int, int, int]
    ref: Any = None


@dataclass(frozen=True)
class Rejected:
    """A call that gives no row, and why."""

    predictor: str
    reason: str


@dataclass
class KeyRows:
    """The rows of one key, shuffled, on their two sides."""

    key: Key
    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.train) + len(self.validation)


@dataclass(frozen=True)
class Assembly:
    """The training files of a job, and how every predictor fared."""

    files: tuple[KeyRows, ...]
    coverage: Mapping[str, Mapping[str, Any]]


def passes(status: str, score: Mapping[str, Any] | None, min_score: float, *, scored: bool) -> bool:
    """Whether a trace may become rows. Without a metric every `ok` trace may."""
    if status != "ok":
        return False
    if not scored:
        return True
    return score is not None and score["status"] == "ok" and score["value"] is not None and float(score["value"]) >= min_score


def assemble(
    rows: Iterable[Row], rejected: Iterable[Rejected], keys: Sequence[Key], keep: Filter, seed: int, watched: Container[str] = ()
) -> Assembly:
    """One training file a key, from the rows of that key's predictors alone; the same rows give the same files in any order of arrival.

    `watched` holds the `lm_key` of LMs that train with early stopping: they get validation rows even when there are few.
    """
    ranked = _top_traces(sorted(rows, key=lambda row: row.order), keep.top_k)
    owner = key_of(keys)
    files = {key.id: KeyRows(key) for key in keys}
    for row in ranked:
        if row.predictor in owner:
            files[owner[row.predictor].id].train.append(row)
    for file in files.values():
        _settle(file, keep, seed, FEWEST_ROWS_TO_WATCH if file.key.lm_key in watched else FEWEST_ROWS_TO_VALIDATE)
    return Assembly(tuple(files.values()), _coverage(files.values(), ranked, rejected))


def refuse(assembly: Assembly, *, traces: int, passed: int, min_score: float, scores: Iterable[float | None]) -> Reason | None:
    """The reason to stop before training, if there is one: no trace passed, or a key has no rows."""
    if not passed:
        return no_rows_kept(traces, min_score, scores)
    bare = [name for file in assembly.files if not len(file) for name in file.key.predictors]
    return no_rows_for_predictor(bare, assembly.coverage) if bare else None


def _top_traces(rows: list[Row], top_k: int | None) -> list[Row]:
    if top_k is None:
        return rows
    best: dict[str, dict[str, tuple[float, tuple[int, ...]]]] = {}
    for row in rows:
        rank = (-(row.score if row.score is not None else 0.0), row.order[:3])
        best.setdefault(row.group, {}).setdefault(row.trace_digest, rank)
    kept = {(group, digest) for group, ranks in best.items() for digest in sorted(ranks, key=ranks.__getitem__)[:top_k]}
    return [row for row in rows if (row.group, row.trace_digest) in kept]


def _settle(file: KeyRows, keep: Filter, seed: int, fewest: int) -> None:
    rows = _without_twins(file.train) if keep.dedup else file.train
    rows = sorted(rows, key=lambda row: (_shuffle_place(row.digest, seed), row.order))[: keep.max_rows]
    groups = validation_groups([row.group for row in rows], fewest)
    file.train = [row for row in rows if row.group not in groups]
    file.validation = [row for row in rows if row.group in groups]


def _without_twins(rows: Iterable[Row]) -> list[Row]:
    return list({row.digest: row for row in reversed(list(rows))}.values())


def _shuffle_place(digest: str, seed: int) -> str:
    return sha256(f"{seed}:{digest}".encode()).hexdigest()


def validation_groups(groups: Sequence[str], fewest: int = FEWEST_ROWS_TO_VALIDATE) -> set[str]:
    """The groups whose rows watch the training: about a tenth of the rows, at least 1 and at most 256; none under `fewest` rows."""
    if len(groups) < fewest:
        return set()
    wanted = max(1, min(MOST_VALIDATION_ROWS, round(len(groups) * VALIDATION_FRACTION)))
    sizes = Counter(groups)
    chosen: set[str] = set()
    rows = 0
    for group in sorted(sizes, key=lambda name: place(name, "validation")):
        if rows >= wanted or len(chosen) == len(sizes) - 1:
            break
        if rows + sizes[group] <= wanted * 2:
            chosen.add(group)
            rows += sizes[group]
    return chosen


def _coverage(files: Iterable[KeyRows], rendered: Iterable[Row], rejected: Iterable[Rejected]) -> dict[str, dict[str, Any]]:
    made = Counter(row.predictor for row in rendered)
    why: dict[str, Counter[str]] = {}
    for rejection in rejected:
        why.setdefault(rejection.predictor, Counter())[rejection.reason] += 1
    report: dict[str, dict[str, Any]] = {}
    for file in files:
        kept, held = Counter(row.predictor for row in file.train), Counter(row.predictor for row in file.validation)
        for name in file.key.predictors:
            report[name] = {
                "rendered": made[name],
                "rows": kept[name],
                "validation_rows": held[name],
                "rejected": dict(sorted(why.get(name, Counter()).items())),
            }
    return report
