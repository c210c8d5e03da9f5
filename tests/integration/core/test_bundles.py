"""Which bundles a job needs: of one Python, there until it is over, run by workers that have that Python alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from distill.catalog import aliases, artifacts, bundles, programs
from distill.catalog.models import Program
from distill.db import unit_of_work
from distill.errors import Conflict, Invalid, JobFault
from distill.jobs import bundle_use, claims, retrying
from distill.jobs.claims import WorkerInfo
from distill.rollouts import RunnerError
from distill.storage import FolderStore
from stillhouse_programs.spec import parse_bundle
from tests.integration.core.world import PROGRAM, WORKER, World, cancel, claim, taken
from tests.support.bundles import bundle

ABLE = WorkerInfo("able", WORKER.capabilities | {"python:3.11"})
_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
def world(database: str, tmp_path: Path) -> World:
    return World(FolderStore(tmp_path / "blobs")).build()


def sent(world: World, python: str = "3.11", identity: str | None = None, **files: str) -> tuple[str, str]:
    """Id and digest of a new bundle."""
    read = parse_bundle({**bundle(files or None), "python": python, "identity": identity})
    blob = world.store.put(read.text.encode())
    with unit_of_work() as s:
        row = bundles.ensure(s, world.store, world.project_id, None, read, blob)
        return row.id, row.digest


def metric(digest: str) -> dict[str, Any]:
    return {"type": "reference", "reference": "desk.scores:right", "bundle": digest}


def program(world: World, digest: str) -> str:
    inputs = [{"name": "message", "schema": {"type": "string"}}]
    with unit_of_work() as s:
        return world.program(s, {**PROGRAM, "reference": {"target": "desk.programs:Desk", "inputs": inputs, "bundle": digest}})


def waiting() -> int:
    with unit_of_work() as s:
        return int(s.execute(_WAITING).scalar_one())


def remove(world: World, bundle_id: str) -> None:
    with unit_of_work() as s:
        bundle_use.remove(s, world.project_id, bundle_id)


class TestSameCode:
    def test_programs_of_one_identity_share_traces_between_client_and_server(self, world: World) -> None:
        def by_client(source: str = "0", **changes: Any) -> str:
            client = {"inputs": [{"name": "message"}], "source": source * 64, **changes}
            with unit_of_work() as s:
                return world.program(s, {**PROGRAM, "client": client})

        identity = "a" * 64
        by_server = program(world, sent(world, identity=identity)[1])
        before, other_source, edited = by_client(), by_client("1"), by_client(identity="b" * 64)
        mine = by_client(identity=identity)
        with unit_of_work() as s:
            ids = {row.digest: row.id for row in s.scalars(select(Program))}
            found = programs.same_code(s, [by_server, before, other_source, edited, mine])
        shared = {ids[digest]: {(ids[each.digest], each.failed) for each in others} for digest, others in found.items()}
        assert shared == {
            by_server: {(mine, False)},
            mine: {(by_server, False), (before, True)},
            edited: {(before, True)},
            before: {(mine, True), (edited, True)},
            other_source: set(),
        }

    def test_a_program_that_an_older_release_stored_gets_its_identity(self, world: World) -> None:
        digest = sent(world, identity="a" * 64)[1]
        program_id = program(world, digest)
        with unit_of_work() as s:
            s.execute(update(Program).values(identity=None))
        assert program(world, digest) == program_id
        with unit_of_work() as s:
            assert s.scalar(select(Program.identity).where(Program.id == program_id)) == "a" * 64


class TestOnePython:
    def test_two_are_refused_by_name(self, world: World) -> None:
        ours, theirs = program(world, sent(world)[1]), program(world, sent(world, "3.12")[1])
        for more, param in (
            ({"metric": metric(sent(world, "3.12")[1])}, "metric"),
            ({"metric": "exact_match", "teacher": [{"program_id": theirs}]}, "teacher[0].program"),
        ):
            with pytest.raises(Invalid) as refusal:
                world.submit(program_id=ours, **more)
            assert (refusal.value.code, refusal.value.param) == ("pythons_differ", param)
            assert "its bundle is of Python 3.12, that of program of 3.11" in refusal.value.message

    def test_workers_that_have_it_get_its_work(self, world: World) -> None:
        job_id = world.submit(program_id=program(world, sent(world, "3.12")[1]), metric="exact_match")
        assert claim() is None, "as a worker of an earlier release"
        assert claim(worker=WorkerInfo("other", WORKER.capabilities | {"python:3.11"})) is None
        assert taken(worker=WorkerInfo("right", WORKER.capabilities | {"python:3.12"})).job_id == job_id


class TestThere:
    def test_it_stays_until_the_jobs_that_need_it_are_over(self, world: World) -> None:
        name, digest = sent(world)
        jobs = [world.submit(metric=metric(digest)), world.submit(program_id=program(world, digest), metric="exact_match")]
        for job_id in jobs:
            with pytest.raises(Conflict, match=job_id):
                remove(world, name)
            cancel(world, job_id)
        failed = world.submit(metric=metric(digest))
        with unit_of_work() as s:
            claims.fail(s, taken(worker=ABLE), JobFault("no_luck", "It did not work"))
        remove(world, name)
        with pytest.raises(Conflict, match="no bundle") as late, unit_of_work() as s:
            retrying.retry(s, world.project_id, failed)
        assert late.value.code == "bundle_not_found"
        with pytest.raises(Invalid) as refusal:
            world.submit(metric=metric(digest))
        assert (refusal.value.code, refusal.value.param) == ("bundle_not_found", "metric")

    def test_it_stays_for_a_job_that_is_to_beat_what_was_made_of_it(self, world: World) -> None:
        name, digest = sent(world)
        earlier = world.submit(program_id=program(world, digest), metric="exact_match")
        cancel(world, earlier)
        with unit_of_work() as s:
            words: dict[str, Any] = {"project_id": world.project_id, "name": "router", "manifest": "{}", "files": {}}
            made = artifacts.create(s, job_id=earlier, digest="sha256:1", **words)
            aliases.move(s, world.project_id, aliases.Name("router", "prod"), made.id, None)
        job_id = world.submit(metric="exact_match", evaluate={"incumbent": "router@prod"})
        with pytest.raises(Conflict, match=job_id):
            remove(world, name)

    def test_one_who_deletes_it_waits_for_one_who_is_about_to_need_it(self, world: World) -> None:
        name, digest = sent(world)
        with ThreadPoolExecutor(1) as other, unit_of_work() as s:
            bundles.python_of(s, world.project_id, {"metric": digest}, hold=True)
            deleting = other.submit(remove, world, name)
            pause = threading.Event()
            while not waiting():
                pause.wait(0.01)
            assert not deleting.done()
        deleting.result()

    def test_runners_get_that_of_their_project_alone(self, world: World) -> None:
        read = bundle_use.source(world.store, accept=True)
        name, digest = sent(world, **{"a.py": "1"})
        assert read(world.project_id, digest)["files"] == {"a.py": "1"}
        with pytest.raises(RunnerError, match="bundle_not_found"):
            read(world.other_project("other")[0], digest)
        with pytest.raises(RunnerError, match="bundles_not_accepted"):
            bundle_use.source(world.store, accept=False)(world.project_id, digest)
        remove(world, name)
        with pytest.raises(RunnerError, match="bundle_not_found"):
            read(world.project_id, digest)
