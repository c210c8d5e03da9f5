"""The notebook's process is killed in the middle of its rollouts, and the same lines are run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stillhouse
from tests.integration.execute.house import reap
from tests.integration.execute.journeys.conftest import STUDENT, TEACHER, Live, knows
from tests.integration.execute.journeys.test_notebook import PROGRAM
from tests.support.scripted_lm import Hang, ScriptedLM
from tests.support.server_process import wait_until

CALL = f"""
student = Support(); student.set_lm(dspy.LM("house/{STUDENT}"))
teacher = Support(); teacher.set_lm(dspy.LM("openai/{TEACHER}"))
rows = [dspy.Example(message=f"Message {{n}} about {{TEAMS[n % 3]}}", category=TEAMS[n % 3]).with_inputs("message") for n in range(40)]
opt = stillhouse.BootstrapFinetune(metric=lambda ex, pred, trace=None: ex.category == pred.category, num_threads=4)
tuned = opt.compile(student, trainset=rows, teacher=teacher)
print(opt.job.id, opt.job.status)
"""

ANSWERED = 30


@pytest.fixture
def client(live: Live) -> Iterator[stillhouse.Stillhouse]:
    with stillhouse.Stillhouse(live.url, live.key("jobs:read", "jobs:write")) as made:
        yield made


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces are sent at each beat."""
    monkeypatch.setenv("STILLHOUSE_TIMERS__BEAT_SECONDS", "0.5")


@pytest.mark.slow
class TestClosedLaptop:
    def test_the_same_call_goes_on_and_pays_only_for_what_was_under_way(
        self, quick_beats: None, client: stillhouse.Stillhouse, desk: Path, teacher: ScriptedLM
    ) -> None:
        teacher.answer = lambda ask: knows(ask) if ask.n < ANSWERED else Hang()
        process = subprocess.Popen([sys.executable, "-c", PROGRAM + CALL], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: len(teacher.calls) == ANSWERED and teacher.in_flight > 0, "the next ones are under way")
            job = client.compile_jobs.list().data[0]
            wait_until(lambda: len(client.compile_jobs.traces.list(job.id).data) > 0, "traces are stored")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        teacher.catch_up()
        asked = len(teacher.calls)
        kept = len(client.compile_jobs.traces.list(job.id, limit=100).data)
        assert 0 < kept < 40
        teacher.answer = knows
        assert reap() == 1
        waiting = client.compile_jobs.retrieve(job.id)
        assert waiting.status == "running"
        assert waiting.queue is not None
        assert "waits for a client" in str(waiting.queue.reason)

        again = subprocess.run([sys.executable, "-c", PROGRAM + CALL], capture_output=True, text=True, timeout=300, check=False)
        assert again.returncode == 0, again.stderr
        assert again.stdout.split() == [job.id, "succeeded"]
        prompts = [call.digest for call in teacher.calls]
        assert len(prompts) - len(set(prompts)) <= asked - 2 * kept, "a trace that is stored is not paid for again: two calls each"
