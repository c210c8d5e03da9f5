"""A relay that runs."""

from collections.abc import Iterator

import pytest

from distill.relay import Relay
from tests.unit.relay.support import LIMITS


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay(LIMITS)
    relay.start()
    yield relay
    relay.stop()
