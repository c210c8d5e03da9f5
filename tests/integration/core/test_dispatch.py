"""From a committed row to a finished job, over a real dispatcher, a real Redis and a real Celery worker."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import redis
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import select, text

from distill.catalog import webhooks
from distill.db import listen_dsn, unit_of_work
from distill.jobs import events, line, outbox, repository
from distill.jobs.models import Worker
from distill.jobs.outbox import Hint
from distill.queue import send_hint
from distill.settings import TimerSettings
from tests.integration.core.world import World, at_once, claim, execute, items, job
from tests.support.databases import forget_settings
from workers.dispatcher import Dispatcher

SECONDS = 60
HUNG_SECONDS = 10
CELERY = ("celery", "-A", "tests.integration.core.trivial_worker", "worker", "-Q", "rollouts", "--pool", "threads", "-c", "2", "-l", "info")
QUIET = ("--without-gossip", "--without-mingle", "-n", "trivial@%h")


@contextmanager
def process(*command: str, until: str = " ready", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A child that has said `until`; it is killed at the end of the block if it still runs."""
    child = subprocess.Popen(
        [sys.executable, "-m", *command], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=Path(__file__).parents[3], start_new_session=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        said = []
        for line in child.stdout:
            said.append(line)
            if until in line:
                break
        else:
            pytest.fail("".join(said))
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def wait_for(job_id: str, holds: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Until something is true of a job, looked at whenever it has news."""
    deadline = time.monotonic() + seconds
    with psycopg.connect(listen_dsn(), autocommit=True) as listener:
        listener.execute(f"LISTEN {events.CHANNEL}")
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"{job(job_id).status}: {[(item.step, item.status) for item in items(job_id)]}")
            for _ in listener.notifies(timeout=0.5, stop_after=1):
                pass


def assert_ends_as(job_id: str, status: str) -> None:
    wait_for(job_id, lambda: job(job_id).status == status)


def heard_of() -> list[Worker]:
    with unit_of_work() as s:
        return list(s.scalars(select(Worker)))


class TestHints:
    def test_a_job_runs_without_anybody_polling_for_it(self, world: World, redis_url: str) -> None:
        with process("workers.dispatcher"), process(*CELERY, *QUIET):
            assert_ends_as(world.submit(), "succeeded")

    def test_losing_all_of_redis_loses_no_job(self, world: World, redis_url: str) -> None:
        dispatcher = Dispatcher(TimerSettings())
        job_id = world.submit()
        assert dispatcher.round() == 1
        with redis.Redis.from_url(redis_url) as client:
            assert client.dbsize() > 0
            client.flushall()
        with process("workers.dispatcher", STILLHOUSE_TIMERS__RESEND_SECONDS="0.5"), process(*CELERY, *QUIET):
            assert_ends_as(job_id, "succeeded")

    @pytest.mark.slow
    def test_nothing_that_a_step_raises_ends_the_worker(self, world: World, redis_url: str) -> None:
        """User code has a process of its own; this is about our own steps, which may run out of memory too."""
        timers = {"STILLHOUSE_TIMERS__RETRY_BASE_SECONDS": "0.05", "STILLHOUSE_TIMERS__RETRY_CAP_SECONDS": "0.05"}
        with process("workers.dispatcher", STILLHOUSE_TIMERS__DISPATCH_POLL_SECONDS="0.1"), process(*CELERY, *QUIET, **timers) as worker:
            failing = [world.submit(name=name) for name in ("MemoryError", "SystemExit", "KeyboardInterrupt", "Unpicklable")]
            for job_id in failing:
                assert_ends_as(job_id, "failed")
            assert_ends_as(world.submit(), "succeeded")
            assert worker.poll() is None
        assert {item.attempts for job_id in failing for item in items(job_id)} == {3}

    @pytest.mark.slow
    def test_cut_connections_start_no_second_copy(self, world: World, redis_url: str) -> None:
        """A hint is acknowledged before its work, so none comes back with a lost connection; and the worker connects anew."""
        with process("workers.dispatcher", STILLHOUSE_TIMERS__DISPATCH_POLL_SECONDS="0.1"), process(*CELERY, *QUIET):
            job_id = world.submit(name="slow")
            wait_for(job_id, lambda: items(job_id)[0].status == "leased")
            with redis.Redis.from_url(redis_url) as client:
                assert client.client_kill_filter(_type="normal", skipme=True) > 0
            assert_ends_as(world.submit(), "succeeded")
            (item,) = items(job_id)
            assert (item.status, item.fence, item.attempts) == ("leased", 1, 1)

    def test_terminated_worker_gives_its_work_back(self, world: World, redis_url: str) -> None:
        with process("workers.dispatcher") as dispatcher, process(*CELERY, *QUIET) as worker:
            job_id = world.submit(name="slow")
            wait_for(job_id, lambda: items(job_id)[0].status == "leased")
            assert [(row.queues, "runtime:default" in row.capabilities) for row in heard_of()] == [(["rollouts"], True)]
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(SECONDS) == 0
            assert heard_of() == []
            item = items(job_id)[0]
            assert (item.status, item.attempts, job(job_id).status) == ("queued", 0, "running")
            dispatcher.send_signal(signal.SIGTERM)
            assert dispatcher.wait(SECONDS) == 0


class TestAWorkerThatCannotWork:
    def test_it_does_not_start_and_the_job_says_that_nobody_is_there(self, world: World, redis_url: str) -> None:
        broken = [word.replace("trivial", "broken") for word in (*CELERY, *QUIET)]
        ended = subprocess.run(
            [sys.executable, "-m", *broken], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parents[3],
            timeout=SECONDS, check=False,
        )  # fmt: skip
        assert (ended.returncode, "worker cannot start" in ended.stdout) == (1, True), ended.stdout
        assert "distill.execute.steps" in ended.stdout
        job_id = world.submit()
        with unit_of_work() as s:
            waiting = line.waiting(s, [repository.by_id(s, job_id)])[job_id]
        assert waiting.reason == "no worker is alive for the queue rollouts"


class TestDispatcher:
    def test_a_step_of_many_items_wakes_many_workers(self, world: World) -> None:
        _pending()
        world.at_bootstrap(1, items=5)
        assert _pending() == [Hint("rollouts", 1 + 5)]  # its validate, too

    def test_refused_hint_is_sent_again(self, world: World) -> None:
        world.submit()
        broken = Dispatcher(TimerSettings(), send=_refuse)
        with pytest.raises(ConnectionError):
            broken.round()
        assert _pending() == [Hint("rollouts", 1)]

    def test_one_that_dies_between_sending_and_marking_costs_a_second_hint_and_no_second_claim(self, world: World) -> None:
        job_id, sent = world.submit(), list[str]()

        def send_and_die(queue: str) -> None:
            sent.append(queue)
            raise SystemExit(9)

        with pytest.raises(SystemExit):
            Dispatcher(TimerSettings(), send=send_and_die).round()
        Dispatcher(TimerSettings(), send=sent.append).round()
        assert sent == ["rollouts", "rollouts"]
        assert [held is not None for held in at_once(2, lambda _: claim())].count(True) == 1
        assert items(job_id)[0].fence == 1

    def test_flood_is_thinned(self, world: World) -> None:
        with unit_of_work() as s:
            for _ in range(100):
                outbox.add(s, "train")
        sent: list[str] = []
        Dispatcher(TimerSettings(), send=sent.append).round()
        assert sent == ["train"] * 16

    def test_a_long_queue_hides_no_other_whose_hints_were_lost(self, world: World) -> None:
        world.at_bootstrap(1, items=50)
        execute("UPDATE work_items SET queue = 'train' WHERE id = (SELECT max(id) FROM work_items)")
        before = "clock_timestamp() - interval '2 minutes'"
        execute(f"UPDATE work_items SET hinted_at = {before}, run_after = {before} WHERE status = 'queued'")
        with unit_of_work() as s:
            for way in ("hashjoin", "mergejoin", "material", "sort", "hashagg"):  # so that one plan alone is left: the join in a loop
                s.execute(text(f"SET LOCAL enable_{way} = off"))
            assert {hint.queue: hint.many for hint in outbox.take_overdue(s, 60)} == {"rollouts": 16, "train": 1}
            assert {hint.queue: hint.many for hint in outbox.take_overdue(s, 60)} == {"rollouts": 16}

    def test_where_nobody_listens_hints_do_not_pile_up(self, database: str, redis_url: str) -> None:
        with redis.Redis.from_url(redis_url) as client:
            for _ in range(40):
                send_hint("train")
            assert client.llen("sh:train") == 16
            client.delete("sh:train")
            send_hint("train")
            assert client.llen("sh:train") == 1

    def test_a_redis_that_is_away_is_told_as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        forget_settings()
        with pytest.raises(BrokerError):
            send_hint("train")

    @pytest.mark.slow
    def test_a_redis_that_hangs_is_given_up_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes connections and says nothing, as a process that stands still."""
        with socket.create_server(("127.0.0.1", 0)) as hanging:
            monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{hanging.getsockname()[1]}/0")
            forget_settings()
            began = time.monotonic()
            with pytest.raises(BrokerError):
                send_hint("train")
            took = time.monotonic() - began
        print(f"a hint was given up after {took:.1f} s")
        assert took < HUNG_SECONDS

    def test_a_look_up_without_an_end_does_not_keep_it(self, world: World, redis_url: str) -> None:
        with unit_of_work() as s:
            webhooks.add(s, world.project_id, "https://silent.test/hook", ["alias.moved"], None)
            webhooks.announce(s, world.project_id, "alias.moved", {})
        with process("tests.integration.core.mute_dispatcher", until="looks up silent.test") as dispatcher:
            dispatcher.send_signal(signal.SIGTERM)
            said, _ = dispatcher.communicate(timeout=SECONDS)
            assert (dispatcher.returncode, "Traceback" in said) == (0, False), said

    def test_two_dispatchers_send_once(self, world: World) -> None:
        for _ in range(4):
            world.submit()
        sent: list[str] = []
        dispatchers = [Dispatcher(TimerSettings(), send=sent.append) for _ in range(4)]
        at_once(4, lambda index: dispatchers[index].round())
        assert sent == ["rollouts"] * 4

    @pytest.mark.parametrize("hinted_at", ["run_after - interval '1 second'", "run_after"], ids=["due", "overdue"])
    def test_a_reminder_comes_when_its_item_can_be_claimed(self, hinted_at: str, world: World) -> None:
        """A worker looks as soon as the hint is sent and passes over locked rows; a row still locked then would wait a minute."""
        world.submit()
        assert _pending() == [Hint("rollouts", 1)]
        execute("UPDATE work_items SET run_after = clock_timestamp() - interval '1 hour'")
        execute(f"UPDATE work_items SET hinted_at = {hinted_at}")
        claimed: list[bool] = []
        Dispatcher(TimerSettings(), send=lambda queue: claimed.append(claim(queue) is not None)).round()
        assert claimed == [True]

    def test_reaper_cleans_up_behind_a_finished_job(self, world: World) -> None:
        job_id = world.submit()
        execute("UPDATE jobs SET status = 'cancelled', cancel_requested_at = clock_timestamp(), finished_at = clock_timestamp()")
        Dispatcher(TimerSettings(), send=lambda _: None).reap()
        assert items(job_id)[0].status == "cancelled"


def _refuse(_: str) -> None:
    raise ConnectionError("no Redis")


def _pending() -> list[Hint]:
    with unit_of_work() as s:
        return outbox.take(s)
