"""One training as a process, watched from outside in the same way for both sides: its steps' times and its CPU time at each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu import cpu_seconds
from bench.side import ROOT, SideFailed

_LOOK_SECONDS = 0.05
_TAIL_BYTES = 1500
_PATIENCE_SECONDS = 3 * 3600.0


@dataclass(frozen=True)
class Training:
    """A finished training. `marks` are (Unix seconds, CPU seconds of the process so far) at the end of each training step."""

    folder: Path
    marks: list[tuple[float, float]]
    result: dict[str, Any]

    @property
    def step_seconds(self) -> float:
        """Wall seconds a training step, the first one left out: it warms up."""
        return (self.marks[-1][0] - self.marks[0][0]) / (len(self.marks) - 1)

    @property
    def step_cpu_seconds(self) -> float:
        return (self.marks[-1][1] - self.marks[0][1]) / (len(self.marks) - 1)


def write_work_folder(folder: Path, rows: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> Path:
    """The files of `engines.schemas`: what both sides train on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return folder


def our_command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "engines.trainer", str(folder)]


def trl_command(folder: Path, threads: int) -> list[str]:
    return [sys.executable, "-m", "bench.sides.trl_training", str(folder), str(threads)]


def train(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Training:
    """Run a training to its end. Raises SideFailed with the end of its log."""
    log = folder / "log.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT, env=dict(environment)
        )
        watchdog = threading.Timer(_PATIENCE_SECONDS, process.kill)
        watchdog.start()
        try:
            marks = _watch(process, folder / "curve.jsonl")
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
    if process.returncode or len(marks) < 2:
        tail = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
        raise SideFailed(f"{command[2]} ended ({process.returncode}) after {len(marks)} training steps: {tail}")
    return Training(folder, marks, json.loads((folder / "result.json").read_text(encoding="utf-8")))


def _watch(process: subprocess.Popen[bytes], curve: Path) -> list[tuple[float, float]]:
    """Look at the curve until the process ends. A mark's CPU time is read up to a look later than its step ended."""
    marks: list[tuple[float, float]] = []
    pause = threading.Event()
    while process.poll() is None:
        lines = curve.read_text(encoding="utf-8").splitlines(keepends=True) if curve.is_file() else []
        for line in lines[len(marks) :]:
            if line.endswith("\n"):
                marks.append((float(json.loads(line)["at"]), cpu_seconds(process.pid)))
        pause.wait(_LOOK_SECONDS)
    return marks
