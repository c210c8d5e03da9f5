"""What an LM host's agent makes of the host's answers."""

from collections.abc import Iterator

import pytest

from distill.execute.lm_host import CannotSleep, HostRefused, HostUnreachable, LmHostClient
from tests.support.status_server import StatusServer, status_server


@pytest.fixture
def host() -> Iterator[StatusServer]:
    with status_server() as server:
        yield server


def client(host: StatusServer) -> LmHostClient:
    return LmHostClient(f"{host.url}/v1", None)


class TestSleep:
    @pytest.mark.parametrize("status", [404, 405])
    def test_a_host_without_the_route_cannot_and_never_does(self, host: StatusServer, status: int) -> None:
        host.status = status
        with pytest.raises(CannotSleep):
            client(host).sleep()
        assert not client(host).is_sleeping()

    def test_another_refusal_is_told_as_one(self, host: StatusServer) -> None:
        host.status = 500
        with pytest.raises(HostRefused) as refused:
            client(host).sleep()
        assert refused.value.status == 500

    def test_a_host_that_is_away_is_unreachable(self, host: StatusServer) -> None:
        away = client(host)
        host.shutdown()
        host.server_close()
        with pytest.raises(HostUnreachable):
            away.sleep()
