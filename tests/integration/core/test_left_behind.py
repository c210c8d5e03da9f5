"""What a process that died leaves is moved on by the dispatcher, or is nothing at all: the table of docs/lifecycle.md."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from distill.catalog import idempotency
from distill.db import Session, engine, unit_of_work
from distill.errors import Conflict
from distill.settings import TimerSettings
from tests.integration.core.world import World, cancel, execute, items, job, pause, taken
from workers.dispatcher import Dispatcher

ANSWER = idempotency.Answer(201, "{}", {})
Ask = Callable[[World, str], None]


@pytest.fixture(autouse=True)
def quick_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test server is seconds old; with the usual timers nothing would be reaped before it is two minutes old."""
    monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.1")
    monkeypatch.setenv("STILLHOUSE_TIMERS__REAP_GRACE_SECONDS", "0")


def lapse() -> None:
    execute("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 hour' WHERE status = 'leased'")


def reap() -> None:
    Dispatcher(TimerSettings(), send=lambda _queue: None).reap()


def count(statement: str) -> int:
    with unit_of_work() as s:
        return int(s.execute(text(statement)).scalar_one())


def nothing(world: World, job_id: str) -> None:
    """The job is to go on."""


class TestHolder:
    @pytest.mark.parametrize(
        ("asked", "of_item", "of_job"),
        [(nothing, "queued", "running"), (cancel, "cancelled", "cancelled"), (pause, "queued", "paused")],
    )
    def test_a_lost_lease_ends_and_so_does_what_waited_for_it(self, asked: Ask, of_item: str, of_job: str, world: World) -> None:
        job_id = world.submit()
        taken()
        asked(world, job_id)
        assert job(job_id).status == "running"
        lapse()
        reap()
        assert (items(job_id)[0].status, job(job_id).status) == (of_item, of_job)

    def test_a_lease_that_holds_is_left_alone(self, world: World) -> None:
        job_id = world.submit()
        taken()
        execute("UPDATE work_items SET lease_expires_at = clock_timestamp() + interval '1 minute' WHERE status = 'leased'")
        reap()
        assert items(job_id)[0].status == "leased"


class TestHints:
    def test_one_that_was_written_and_not_sent_is_sent(self, world: World) -> None:
        world.submit()
        sent: list[str] = []
        Dispatcher(TimerSettings(), send=sent.append).round()
        assert sent == ["rollouts"]

    def test_one_that_redis_lost_is_sent_again(self, world: World) -> None:
        world.submit()
        sent: list[str] = []
        dispatcher = Dispatcher(TimerSettings(), send=sent.append)
        assert (dispatcher.round(), dispatcher.round()) == (1, 0)
        execute("UPDATE work_items SET (hinted_at, run_after) = (SELECT t, t FROM (SELECT now() - interval '2 minutes') AS ago (t))")
        dispatcher.round()
        assert sent == ["rollouts", "rollouts"]


class TestRequests:
    def test_the_key_of_one_that_died_is_free(self, world: World) -> None:
        """The API process is killed, or its connection lost: as far as PostgreSQL is concerned that is the same."""
        request = idempotency.Request(world.project_id, "POST /v1/compile_jobs", "weekly", "digest")
        with Session(engine("api")) as dying:
            assert idempotency.begin(dying, request) is None
            with unit_of_work() as other, pytest.raises(Conflict):
                idempotency.begin(other, request)
            idempotency.finish(dying, request, ANSWER)
            dying.flush()
            number = dying.execute(text("SELECT pg_backend_pid()")).scalar_one()
            execute("SELECT pg_terminate_backend(:number, 5000)", number=number)
            with pytest.raises(DBAPIError):
                dying.commit()
        with unit_of_work() as s:
            assert idempotency.begin(s, request) is None


class TestOldRows:
    @pytest.mark.parametrize(
        ("table", "row", "kept", "gone"),
        [
            (
                "idempotency_keys",
                "(project_id, route, key, request_digest, created_at) VALUES (:project, 'POST /', :n, 'd', {age})",
                47,
                49,
            ),
            ("outbox", "(queue, sent_at) VALUES ('light', {age})", 0.9, 1.1),
            ("workers", "(name, queues, capabilities, seen_at) VALUES (:n, '{{}}', '{{}}', {age})", 0.9, 1.1),
        ],
    )
    def test_go(self, table: str, row: str, kept: float, gone: float, world: World) -> None:
        execute(f"DELETE FROM {table}")
        for number, hours in enumerate((kept, gone)):
            statement = f"INSERT INTO {table} {row}".format(age="clock_timestamp() - make_interval(mins => :minutes)")
            values = {"project": world.project_id, "n": f"n{number}", "minutes": int(hours * 60)}
            execute(statement, **{name: value for name, value in values.items() if f":{name}" in statement})
        reap()
        assert count(f"SELECT count(*) FROM {table}") == 1

    def test_a_hint_that_was_not_sent_stays_however_old(self, world: World) -> None:
        execute("DELETE FROM outbox")
        execute("INSERT INTO outbox (queue, created_at) VALUES ('light', clock_timestamp() - interval '9 days')")
        reap()
        assert count("SELECT count(*) FROM outbox") == 1
