"""Runner processes: how they end, what they keep to themselves, who gets them."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from distill.relay import Relay
from distill.rollouts import Runner, RunnerDied, RunnerPool, RunnerSilent
from distill.sandbox import Choice, Limits
from tests.support.scripted_lm import Hang, ScriptedLM
from tests.unit.core.test_folders import nested
from tests.unit.runner.routing import LMS, ROUTER, Json, example, fresh, grant, route, run

ROOT = Path(__file__).parents[3]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends(pid: int, seconds: float = 60.0) -> bool:
    """Whether a process is gone within the time."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while exists(pid) and time.monotonic() < deadline:
        pause.wait(0.01)
    return not exists(pid)


class TestProcess:
    def test_killed_runner_is_reported_and_collected(self, relay: Relay) -> None:
        with fresh(relay) as runner, ScriptedLM(answer=lambda ask: Hang()) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            events = runner.request("rollouts", program_key="router", token=grant(relay, lm).token, examples=[example(0, "x", "other")])

            def kill() -> None:
                lm.wait_for_calls(1)
                os.kill(runner.pid, 9)

            killer = threading.Thread(target=kill)
            killer.start()
            with pytest.raises(RunnerDied) as death:
                list(events)
            killer.join()
            assert (death.value.signal, death.value.cause, death.value.reason) == (9, "signal", "was killed by signal 9 (SIGKILL)")
            assert not exists(runner.pid), "neither running nor a zombie"
            with pytest.raises(RunnerDied):
                runner.ask("hello")

    @pytest.mark.parametrize("is_locked", [True, False])
    def test_a_spec_and_its_metric_run_where_code_of_users_would(self, relay: Relay, is_locked: bool) -> None:
        """In the sandbox, if one holds: a runner is one process for all that it is asked."""
        pool = RunnerPool(relay, {"default": sys.executable}, sandbox=None if is_locked else Choice(None))
        with pool, pool.runner("project", "job") as runner, ScriptedLM(answer=route) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            events = run(runner, grant(relay, lm).token, [example(0, "my invoice", "billing")])
            assert [event["score"]["passed"] for event in events if event["event"] == "score"] == [True]
            statuses = [Path(f"/proc/{pid}/status").read_text() for pid in runner._child.tree.members()]
            locked = [
                "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status for status in statuses if "python" in status.partition("\n")[0]
            ]
            assert locked == [is_locked]

    def test_silent_runner_is_killed(self, relay: Relay) -> None:
        with fresh(relay) as runner, ScriptedLM(answer=lambda ask: Hang()) as lm:
            runner.ensure_open("router", program=ROUTER, lms=LMS)
            body = {"program_key": "router", "token": grant(relay, lm).token, "examples": [example(0, "x", "other")]}
            with pytest.raises(RunnerSilent, match=r"the runner said nothing for 0\.1 s") as death:
                list(runner.request("rollouts", silence_seconds=0.1, **body))
            assert death.value.cause == "silent"
            assert not exists(runner.pid)

    def test_a_runner_that_never_greets_is_not_the_programs_fault(self, relay: Relay, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho no module named stillhouse_programs >&2\nexit 1\n")
        python.chmod(0o755)
        with pytest.raises(RunnerDied, match="ended with exit code 1 before it could be asked anything") as death:
            Runner(str(python), relay)
        assert (death.value.cause, death.value.is_the_programs) == ("not_started", False)
        assert death.value.tail == "no module named stillhouse_programs"

    def test_end_of_a_job_kills_its_busy_runner(self, pool: RunnerPool) -> None:
        with pool.runner("project", "cancelled") as runner:
            pool.end_job("project", "cancelled")
            assert not runner.alive

    def test_warm_runner_serves_its_own_job_only(self, pool: RunnerPool) -> None:
        with pool.runner("project", "a") as first:
            pass
        with pool.runner("project", "a") as again, pool.runner("project", "b") as other:
            assert again is first
            assert other is not first

    def test_stdout_belongs_to_the_protocol_and_litellm_is_never_imported(self) -> None:
        noisy = """
import os, sys
from stillhouse_programs import ops, runner
build = ops.build_program
def build_loudly(spec):
    print("printed")
    os.write(1, b"written\\n")
    return build(spec)
ops.build_program = build_loudly
async def close(self, request, emit):
    return {"litellm": "litellm" in sys.modules}
ops.Ops.close = close
runner.main()
"""
        requests: list[Json] = [
            {"op": "open", "program_key": "router", "program": ROUTER, "lms": LMS},
            {"op": "close", "program_key": "router"},
        ]
        lines = [orjson.dumps({"v": 1, "id": at, **request}) for at, request in enumerate(requests)]
        with subprocess.Popen(
            [sys.executable, "-c", noisy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            replies = []
            for line in lines:
                process.stdin.write(line + b"\n")
                process.stdin.flush()
                replies.append(orjson.loads(process.stdout.readline()))
            process.stdin.close()
            log = process.stderr.read()
        assert [(reply["id"], reply["event"]) for reply in replies] == [(0, "done"), (1, "done")]
        assert replies[1]["litellm"] is False
        assert b"printed" in log
        assert b"written" in log
        assert process.returncode == 0

    def test_dies_with_its_parent(self) -> None:
        code = (
            "import sys\nfrom distill.relay import Relay\nfrom distill.rollouts import Runner\n"
            "print(Runner(sys.executable, Relay().start()).pid, flush=True)\nsys.stdin.read()"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            parent.kill()
        assert ends(pid)

    def test_bad_lines_are_answered(self, relay: Relay) -> None:
        with fresh(relay) as runner:
            runner._write(b"no json\n[]\n")
            assert runner.ask("hello")["protocol"] == 1

    def test_idle_runner_is_ended(self, relay: Relay) -> None:
        with RunnerPool(relay, {"default": sys.executable}, idle_seconds=0.1, sweep_seconds=0.05) as pool:
            with pool.runner("project", "job") as runner:
                pass
            assert ends(runner.pid)

    def test_idle_runner_of_a_job_that_is_over_is_ended_at_the_next_sweep(self, relay: Relay) -> None:
        over = set[str]()
        with RunnerPool(relay, {"default": sys.executable}, sweep_seconds=0.05, over=over.intersection) as pool:
            with pool.runner("project", "goes_on") as going_on, pool.runner("project", "cancelled") as cancelled:
                pass
            over.add("cancelled")
            assert ends(cancelled.pid)
            assert going_on.alive

    def test_surplus_of_idle_runners_is_ended(self, relay: Relay) -> None:
        with RunnerPool(relay, {"default": sys.executable}, max_idle=1) as pool:
            with pool.runner("project", "a") as first:
                pass
            with pool.runner("project", "b") as second:
                pass
            assert (first.alive, second.alive) == (False, True)

    def test_one_that_fills_the_disk_is_ended(self, relay: Relay) -> None:
        """Where its home is on the disk; what it writes is written here in its place."""
        plain, limits = Choice(None), Limits(scratch_mb=1)
        with (
            RunnerPool(relay, {"default": sys.executable}, sandbox=plain, limits=limits, sweep_seconds=0.05) as pool,
            pool.runner("project", "job") as runner,
        ):
            (runner._child.home / "much").write_bytes(b"x" * 2_000_000)
            assert ends(runner.pid)
            with pytest.raises(RunnerDied, match="wrote more than 1 MB of files, or folders") as death:
                runner.ask("hello")
        assert (death.value.cause, death.value.is_the_programs) == ("disk", True)

    def test_one_that_nests_folders_is_ended_with_them(self, relay: Relay) -> None:
        """More than Python's own functions for folders can take."""
        plain = Choice(None)
        with (
            RunnerPool(relay, {"default": sys.executable}, sandbox=plain, sweep_seconds=0.05) as pool,
            pool.runner("project", "job") as runner,
        ):
            home = runner._child.home
            beside = home.with_name("beside")
            beside.mkdir()
            os.close(nested(beside, 1200))
            (beside / "d").rename(home / "d")  # at once: it is looked at all the time
            beside.rmdir()
            assert ends(runner.pid)
            with pytest.raises(RunnerDied, match="wrote more than 512 MB of files, or folders more than 100 deep"):
                runner.ask("hello")
            assert not home.exists()

    def test_a_sweep_goes_on_after_one_that_cannot_be_looked_at(self, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(self: Runner) -> None:
            raise RecursionError

        monkeypatch.setattr(Runner, "check_disk", fails)
        with RunnerPool(relay, {"default": sys.executable}, idle_seconds=0.1, sweep_seconds=0.05) as pool:
            with pool.runner("project", "job") as runner:
                pass
            assert ends(runner.pid)

    def test_one_whose_home_cannot_be_removed_is_dead(self, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(folder: Path) -> None:
            raise RecursionError

        with fresh(relay) as runner:
            with monkeypatch.context() as broken:
                broken.setattr("distill.folders.remove", fails)
                with pytest.raises(RecursionError):
                    runner.kill()
            assert not runner.alive
            with pytest.raises(RunnerDied, match="was stopped"):
                runner.ask("hello")

    def test_home_is_removed(self, relay: Relay) -> None:
        with fresh(relay) as runner:
            home = runner._child.home
            assert home.is_dir()
        assert not home.exists()
