"""`stillhouse jobs logs`: what trainers wrote, each line once, also while they write."""

from __future__ import annotations

from stillhouse import Stillhouse
from stillhouse.cli.output import console, show_json_line
from stillhouse.types import TrainingLog

_WAIT_SECONDS = 30.0
_OVERLAP = 200
"""Characters by which the end of what was shown is found again in a log that begins later."""


class LogPrinter:
    """Remembers what was shown of each log."""

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json
        self._shown: dict[str, str] = {}
        self._last: str | None = None

    def show(self, logs: list[TrainingLog]) -> None:
        """Print what is new, under a line that names the LM and predictor; or as one JSON object for each piece."""
        for log in logs:
            fresh = unseen(self._shown.get(log.fine_tuning_job), log.text)
            self._shown[log.fine_tuning_job] = log.text
            if fresh is not None:
                self._piece(log, fresh)

    def _piece(self, log: TrainingLog, fresh: str) -> None:
        if self._as_json:
            show_json_line(log.model_copy(update={"text": fresh}))
            return
        self._head(log)
        console.print(fresh.rstrip("\n"), highlight=False, markup=False, soft_wrap=True)

    def _head(self, log: TrainingLog) -> None:
        if self._last == log.fine_tuning_job:
            return
        self._last = log.fine_tuning_job
        name = f"{log.lm}, predictor {log.predictor}" if log.predictor else log.lm
        reused = f", the log of {log.reused_from}" if log.reused_from else ""
        console.print(f"==> {name} ({log.fine_tuning_job}, {log.status}{reused})", style="bold", highlight=False, markup=False)


def unseen(shown: str | None, text: str) -> str | None:
    """What of `text` was not shown yet: of a log never seen all of it, None when there is nothing new."""
    if shown is None:
        return text
    if text.startswith(shown):
        return text[len(shown) :] or None
    at = text.rfind(shown[-_OVERLAP:]) if shown else -1
    return text if at < 0 else text[at + len(shown[-_OVERLAP:]) :] or None


def follow(client: Stillhouse, job_id: str, fine_tuning_job: str | None, as_json: bool) -> None:
    """Show the logs until the job is over. Whenever something happens to the job, they are read again."""
    printer = LogPrinter(as_json)
    job = client.compile_jobs.retrieve(job_id)
    while True:
        final = job.is_final
        printer.show(client.compile_jobs.logs(job_id, fine_tuning_job=fine_tuning_job).data)
        if final:
            return
        job = client.compile_jobs.retrieve(job_id, wait=_WAIT_SECONDS)
