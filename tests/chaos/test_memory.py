"""A worker's memory stays what it was: it holds nothing of a work item that is over."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.chaos.homes import home
from tests.chaos.jobs import anchors, body, odd
from tests.chaos.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WARM, MANY = 100, 500
MOST_GROWTH = 0.10
AT_ONCE = 8
KEYS = 12
"""Of Celery: the bindings and messages of three queues, and what was fetched and not yet begun."""


@pytest.fixture
def world(tiny_model: Path) -> Iterator[World]:
    with home() as folder, World(folder, tiny_model.parent, workers=1, latency=0.0) as opened:
        yield opened


def finished_items(world: World) -> int:
    return int(world.query("SELECT count(*) FROM work_items WHERE status = 'succeeded'")[0][0])


def own_megabytes(world: World) -> float:
    """Of the worker's process alone, without what it shares with others (USS)."""
    return float(psutil.Process(world.pid("worker-1")).memory_full_info().uss) / 1e6


def keys_in_redis(world: World) -> int:
    with redis.Redis.from_url(world.stack.layout.redis_url) as client:
        return int(client.dbsize())


def test_five_hundred_items_take_no_more_than_one_hundred(world: World) -> None:
    pid = world.pid("worker-1")
    world.wait_over([world.submit(body(anchors()))])
    figures: dict[int, float] = {}
    number = 0
    for goal in (WARM, MANY):
        while finished_items(world) < goal:
            jobs = [world.submit(body(anchors() + odd(f"item-{number + n}", 2))) for n in range(AT_ONCE)]
            number += AT_ONCE
            world.wait_over(jobs, 120)
        figures[goal] = own_megabytes(world)
    print(f"USS of a worker: {figures[WARM]:.1f} MB after {WARM} items, {figures[MANY]:.1f} MB after {finished_items(world)}")
    assert world.pid("worker-1") == pid
    assert set(world.statuses().values()) == {"succeeded"}
    assert keys_in_redis(world) <= KEYS
    assert figures[MANY] <= figures[WARM] * (1 + MOST_GROWTH)
