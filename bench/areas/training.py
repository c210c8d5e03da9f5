"""Training tokens a second and the held-out score of what was trained: our trainer against TRL's SFTTrainer on the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import interleave
from bench.host import lm_host
from bench.report import Detail, Figure, figure, measured
from bench.session import Session
from bench.side import Side
from bench.task import trec
from bench.training_runs import Training, our_command, train, trl_command, write_work_folder
from distill.pipeline.intervals import mean_interval

AREA = "training"
OTHER = "TRL"
ADAPTER = "adapter-ours"
"""The scratch folder in which the LoRA adapter of the full training is left for other areas."""

Rows = list[dict[str, Any]]


def measure(session: Session) -> list[Figure]:
    rounds, speed_rows = session.size(1, 3), session.size(3, 4) * _batch(session)
    full_rows, held_out = session.size(0, 320), session.size(12, 100)
    session.expect(2 * rounds + (2 if full_rows else 0) + 3)
    rows, questions = trec(session.home / "downloads", max(full_rows, speed_rows), held_out, session.seed)
    with Side(
        "render_rows", session.environment(DSPY_CACHEDIR=str(session.folder("dspy-cache"))), session.folder(AREA) / "rows.log"
    ) as side:
        rendered = side.ask(op="rows", rows=rows)["rows"]
        speed = _trainings(session, rendered[:speed_rows], 1, rounds)
        pairs = _trainings(session, rendered, 2, 1) if full_rows else speed
        _leave(session, pairs[0][-1])
        scores = _scores(session, side, [pairs[0][-1].folder / "out", pairs[1][-1].folder / "out"], questions)
    return [*_speed_figures(_batch(session), *speed), _score_figure(scores, pairs, len(rendered) if full_rows else speed_rows)]


def _batch(session: Session) -> int:
    """Rows a training step. TRL's memory grows with it: its logits of 16 such rows take some gigabytes."""
    return session.size(4, 16)


def _job(session: Session, epochs: int) -> dict[str, Any]:
    """The same for both sides. Both in float32: TRL's other choice is half as fast on many CPUs."""
    options = {
        "n_epochs": epochs,
        "batch_size": _batch(session),
        "learning_rate": 1e-3,
        "lora_r": 16,
        "lora_alpha": 32,
        "max_seq_length": 1024,
    }
    return {"base_model": session.base_model, "options": options, "seed": session.seed, "dtype": "float32"}


def _trainings(session: Session, rows: Rows, epochs: int, rounds: int) -> tuple[list[Training], list[Training]]:
    """Whole trainings in turn, each a process of its own in a new folder."""
    threads = str(session.threads)
    environment = session.environment(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    numbers = iter(range(2 * rounds))

    def one(who: str) -> Training:
        session.tick(f"training {len(rows)} rows, {epochs} epochs: {who}")
        folder = session.folder(AREA) / f"{who}-{epochs}-{next(numbers)}"
        write_work_folder(folder, rows, _job(session, epochs))
        command = our_command(folder) if who == "ours" else trl_command(folder, session.threads)
        return train(command, folder, environment)

    ours, other = interleave(rounds, [lambda: one("ours"), lambda: one("trl")])
    return ours, other


def _leave(session: Session, training: Training) -> None:
    shutil.copytree(training.folder / "out", session.folder(ADAPTER), dirs_exist_ok=True)


def _speed_figures(batch: int, ours: Sequence[Training], other: Sequence[Training]) -> list[Figure]:
    """Tokens of whole rows a second, counted alike: what one step's rows hold on average, whoever computes fewer of them."""
    steps = len(ours[0].marks)
    tokens = other[0].result["tokens_an_epoch"] / steps
    wall = measured("tokens/s", "higher", [tokens / each.step_seconds for each in ours], [tokens / each.step_seconds for each in other])
    sides = [[1e6 * each.step_cpu_seconds / tokens for each in trainings] for trainings in (ours, other)]
    cpu = measured("CPU us/token", "lower", *sides)
    details: dict[str, Detail] = {
        "rows_a_step": batch,
        "tokens_a_row": tokens / batch,
        "dtype": str(ours[0].result["dtype"]),
        "peak_memory_gb_ours": ours[0].result["peak_memory_bytes"] / 2**30,
        "step_seconds_ours": ours[0].step_seconds,
        "step_seconds_other": other[0].step_seconds,
    }
    return [figure(AREA, "training tokens", wall, n=steps - 1, cpu=cpu, other_name=OTHER, details=details)]


def _scores(session: Session, side: Side, folders: Sequence[Path], questions: Rows) -> list[list[float]]:
    """Exact matches of the base model and of both LoRA adapters on held-out questions, free answers, through the LM host."""
    prompts = [row["prompt"] for row in side.ask(op="rows", rows=questions)["rows"]]
    found = []
    with lm_host(session) as host:
        for name, folder in zip(("ours", "trl"), folders, strict=True):
            host.load(name, folder)
        for model in (session.base_model, "ours", "trl"):
            session.tick(f"held-out score: {model}")
            texts = host.ask(model, prompts, in_flight=16).texts
            labels = side.ask(op="read", texts=texts)["labels"]
            found.append([float(label == row["category"]) for label, row in zip(labels, questions, strict=True)])
    return found


def _score_figure(scores: Sequence[Sequence[float]], pairs: tuple[list[Training], list[Training]], rows: int) -> Figure:
    base, ours, other = scores
    percent = [100 * sum(each) / len(each) for each in scores]
    details: dict[str, Detail] = {"base_model": percent[0], "rows": rows, "held_out": len(base)}
    for name, values, trainings in (("ours", ours, pairs[0]), ("other", other, pairs[1])):
        interval = mean_interval(values)
        if interval is not None:
            details |= {f"low_{name}": 100 * interval.low, f"high_{name}": 100 * interval.high}
        details[f"final_loss_{name}"] = float(trainings[-1].result["final_loss"])
    wall = measured("% exact match", "higher", [percent[1]], [percent[2]])
    return figure(AREA, f"held-out score after {rows} rows", wall, n=len(base), other_name=OTHER, details=details)
