"""A relay and runners that several tests share."""

import sys
from collections.abc import Iterator

import pytest

from distill.relay import Relay, RelayLimits
from distill.rollouts import Runner, RunnerPool
from tests.unit.runner.routing import LMS, ROUTER


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    relay = Relay(RelayLimits(first_pause_seconds=0.01))
    relay.start()
    yield relay
    relay.stop()


@pytest.fixture(scope="module")
def pool(relay: Relay) -> Iterator[RunnerPool]:
    with RunnerPool(relay, {"default": sys.executable}) as pool:
        yield pool


@pytest.fixture
def runner(pool: RunnerPool) -> Iterator[Runner]:
    with pool.runner("project", "job") as runner:
        runner.ensure_open("router", program=ROUTER, lms=LMS)
        yield runner
