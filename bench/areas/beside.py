"""What an evaluation on the same processor adds to a training: steps beside background calls of the LM host, against steps alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.cpu import cpu_seconds
from bench.figures import interleave
from bench.host import Host, lm_host
from bench.report import Figure, figure, measured
from bench.session import Session
from bench.side import Side
from bench.task import trec
from bench.training_runs import Training, our_command, train, write_work_folder

AREA = "beside"
OTHER = "training alone"
BATCH = 16
IN_FLIGHT = 32
"""As `make demo` has: its evaluation of baseline and teacher runs while the model is trained."""

Rows = list[dict[str, Any]]


def measure(session: Session) -> list[Figure]:
    rounds, steps = session.size(1, 5), session.size(3, 12)
    session.expect(2 * rounds + 1)
    session.tick("loading the model")
    rows, questions = trec(session.home / "downloads", steps * BATCH, session.size(32, 300), session.seed)
    environment = session.environment(DSPY_CACHEDIR=str(session.folder("dspy-cache")))
    with Side("render_rows", environment, session.folder(AREA) / "rows.log") as side:
        rendered = side.ask(op="rows", rows=rows)["rows"]
        prompts = [row["prompt"] for row in side.ask(op="rows", rows=questions)["rows"]]
    answered: list[int] = []
    host_seconds: list[float] = []
    numbers = iter(range(2 * rounds))

    def alone() -> Training:
        session.tick("training alone")
        return _train(session, rendered, next(numbers))

    def beside(host: Host) -> Training:
        session.tick("training beside an evaluation")
        before = cpu_seconds(host.pid)
        with host.evaluated(prompts, IN_FLIGHT) as answers:
            made = _train(session, rendered, next(numbers))
            answered.append(len(answers))
            host_seconds.append(cpu_seconds(host.pid) - before)
        return made

    with lm_host(session) as host:
        host.ask(host.base_model, prompts[:1], 1)
        ours, other = interleave(rounds, [lambda: beside(host), alone])
    return [_figure(ours, other, answered, host_seconds)]


def _train(session: Session, rows: Rows, number: int) -> Training:
    options = {"n_epochs": 1, "batch_size": BATCH, "learning_rate": 1e-3, "lora_r": 16, "lora_alpha": 32, "max_seq_length": 1024}
    job = {"base_model": session.base_model, "options": options, "seed": session.seed, "dtype": "float32"}
    folder = write_work_folder(session.folder(AREA) / str(number), rows, job)
    return train(our_command(folder), folder, session.environment())


def _figure(ours: Sequence[Training], other: Sequence[Training], answered: Sequence[int], host_seconds: Sequence[float]) -> Figure:
    wall = measured("s/step", "lower", [each.step_seconds for each in ours], [each.step_seconds for each in other])
    cpu = measured("CPU s/step", "lower", [each.step_cpu_seconds for each in ours], [each.step_cpu_seconds for each in other])
    details = {"in_flight": IN_FLIGHT, "answers_beside": median(answered), "host_cpu_seconds_beside": median(host_seconds)}
    return figure(AREA, "training beside an evaluation", wall, n=len(ours[0].marks) - 1, cpu=cpu, other_name=OTHER, details=details)
