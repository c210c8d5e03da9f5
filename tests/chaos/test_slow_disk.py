"""The database's disk is full: requests are refused in plain words, what was accepted stays, and everything goes on once there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stack.servers import plan_servers
from tests.chaos import shortages
from tests.chaos.homes import home
from tests.chaos.invariants import violations
from tests.chaos.jobs import anchors, body, brief
from tests.chaos.world import World
from tests.support.server_process import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DISK_MB = 400


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A home whose database lies on a disk of its own. Only root may mount one."""
    with home() as folder:
        postgres = plan_servers(folder, {}).postgres
        assert postgres is not None
        data = postgres.installation.data
        made = data.rename(data.with_name("made"))
        data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", data], check=True)
        try:
            subprocess.run(["cp", "-a", f"{made}/.", data], check=True)
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", data], check=True)


@pytest.fixture
def world(small_disk: Path, tiny_model: Path) -> Iterator[World]:
    with World(small_disk, tiny_model.parent) as opened:
        opened.wait_over([opened.submit(body(anchors()))])
        yield opened


def send(world: World, number: int) -> httpx.Response:
    headers = {"authorization": f"Bearer {world.keys[0]}", "idempotency-key": f"full-{number}"}
    return httpx.post(f"{world.stack.base_url}/v1/compile_jobs", json=brief(f"full {number}", 8), headers=headers, timeout=60)


def test_45_full_disk_of_the_database_refuses_in_plain_words_and_loses_nothing(world: World) -> None:
    accepted = dict[int, str]()
    with shortages.disk_full(world):
        for number in range(500):
            reply = send(world, number)
            if reply.status_code != 201:
                break
            accepted[number] = reply.json()["id"]
        assert reply.status_code == 503, reply.text
        assert (reply.json()["error"]["code"], "retry-after" in reply.headers) == ("database_unavailable", True)
        assert str(world.home) not in reply.text
        assert httpx.get(f"{world.stack.base_url}/livez").status_code == 200
    wait_until(lambda: send(world, number).status_code == 201, "no job is accepted after there was room again")
    world.accepted |= dict.fromkeys((*accepted.values(), send(world, number).json()["id"]), "full")
    assert [send(world, each).json()["id"] for each in accepted] == list(accepted.values())
    world.wait_over(list(world.accepted))
    world.wait_whole()
    assert {world.status(job) for job in world.accepted} == {"succeeded"}
    assert violations(world) == []
