"""`python -m tests.chaos --runs 1000 --seed 1`: random faults over many small jobs, and what came of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from tests.chaos import storm, tally
from tests.chaos.homes import home
from tests.chaos.storm import Storm
from tests.chaos.tally import Tally
from tests.chaos.world import World
from tests.support.tiny_model import build_tiny_model

SHOWN = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when anything did not hold."""
    options = _parser().parse_args(argv)
    console = Console(width=max(Console().width, 120))
    with home() as scratch:
        models = build_tiny_model(scratch / "models" / "tiny").parent
        with World(scratch / "world", models, timers=storm.TIMERS, threads=6, latency=storm.LATENCY_SECONDS) as world:
            found = run(world, options.seed, options.runs)
            console.print(tally.table_of(found))
            if found.violations:
                folder = Path(os.environ.get("STILLHOUSE_HOME", ".stillhouse")) / f"chaos-{options.seed}"
                tally.keep_evidence(world, folder)
                _tell(console, found, options.seed, folder)
    return 1 if found.violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Random faults over many small jobs on real processes.")
    parser.add_argument("--runs", type=int, default=1000, help="how many jobs")
    parser.add_argument("--seed", type=int, default=1, help="decides jobs and faults")
    return parser


def run(world: World, seed: int, runs: int) -> Tally:
    """`runs` jobs under random faults, and what they come to."""
    with tqdm(total=runs, unit="job") as bar:
        raging = Storm(world, seed, runs, told=lambda over: _move(bar, over))
        raging.rage()
    return tally.take(raging)


def _move(bar: tqdm[None], over: int) -> None:
    bar.update(over - bar.n)


def _tell(console: Console, found: Tally, seed: int, folder: Path) -> None:
    for each in found.violations[:SHOWN]:
        console.print(f"{each.invariant}: {each.what}", markup=False, soft_wrap=True)
    if len(found.violations) > SHOWN:
        console.print(f"... and {len(found.violations) - SHOWN} more")
    console.print(f"Seed {seed}. Logs, rows and calls are in {folder}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
