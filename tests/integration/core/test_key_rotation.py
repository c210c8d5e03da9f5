"""`stillhouse-server rotate-key`: every stored secret under another key, whenever it ends, and beside those who seal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from distill import sealing
from distill.catalog import key_rotation, own_connections, own_keys, projects, webhooks
from distill.catalog.models import Connection
from distill.catalog.webhook_rows import WebhookEndpoint
from distill.db import unit_of_work
from distill.errors import CannotOpen
from distill.settings import get_settings
from stack.errors import StackError
from stack.keys import rotate_sealing_key
from tests.integration.core.test_connections import somebody_waits
from tests.support.databases import forget_settings

KEY = "canary-5f3d9b1c7a2e4680-last"


@dataclass(frozen=True)
class Stored:
    connection: str
    endpoint: str
    secret: str

    def opens(self) -> bool:
        """Whether both secrets are what they were."""
        with unit_of_work() as s:
            connection, endpoint = s.get_one(Connection, self.connection), s.get_one(WebhookEndpoint, self.endpoint)
            assert connection.sealed_key is not None
            key = own_keys.open_key(str(connection.project_id), connection.id, connection.sealed_key)
            parcel = webhooks.Parcel("evt-1", endpoint.id, endpoint.url, "{}", endpoint.sealed_secret, 1)
            return (key, parcel.secret) == (KEY, self.secret)


@pytest.fixture
def stored(database: str) -> Stored:
    values: dict[str, Any] = {"kind": "lm_host", "base_url": "https://api.example.com/v1", "supports": [], "prices": {}, "max_in_flight": 4}
    with unit_of_work() as s:
        project = projects.ensure(s, "support").id
        connection = own_connections.create(s, project, "ours", values, KEY, None)
        endpoint, secret = webhooks.add(s, project, "https://example.com/hook", ["alias.moved"], None)
        return Stored(connection.id, endpoint.id, secret)


def key_file() -> Path:
    return get_settings().home / sealing.FILE


def keys_there() -> list[str]:
    return key_file().read_text().split()


class TestRotation:
    def test_everything_is_sealed_anew_and_the_old_key_is_gone(self, stored: Stored) -> None:
        (old,) = keys_there()
        done = rotate_sealing_key()
        assert (done.secrets, done.sealed_anew, done.closed) == (2, 2, [])
        assert len(keys_there()) == 1
        assert stored.opens()
        key_file().write_text(old)
        with pytest.raises(CannotOpen):
            stored.opens()

    def test_each_time_another_key(self, stored: Stored) -> None:
        seen = []
        for _ in range(3):
            seen += keys_there()
            assert rotate_sealing_key().sealed_anew == 2
            assert stored.opens()
        assert len(set(seen)) == 3

    @pytest.mark.parametrize("name", ["distill.catalog.key_rotation.Rotation.look_at", "distill.sealing.drop_old_keys"])
    def test_one_that_was_cut_off_goes_on(self, stored: Stored, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Before anything is committed, and when all is."""

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(name, killed)
            with pytest.raises(KeyboardInterrupt):
                rotate_sealing_key()
        between = keys_there()
        assert len(between) == 2
        assert stored.opens()
        rotate_sealing_key()
        assert keys_there() == between[:1]
        assert stored.opens()

    def test_who_has_sealed_is_waited_for(self, stored: Stored) -> None:
        """Else its row would be under the key of before, when that one is gone."""
        with unit_of_work() as s:
            project = projects.get(s, "support").id
        with ThreadPoolExecutor(1) as pool:
            with unit_of_work() as s:
                late, secret = webhooks.add(s, project, "https://example.com/late", ["alias.moved"], None)
                rotation = pool.submit(rotate_sealing_key)
                until(lambda: somebody_waits() or rotation.done())
            assert rotation.result().sealed_anew == 3
        assert Stored(stored.connection, late.id, secret).opens()

    def test_what_opens_under_no_key_is_named(self, stored: Stored) -> None:
        with unit_of_work() as s:
            s.execute(text("UPDATE webhook_endpoints SET sealed_secret = 'of another server'"))
        done = rotate_sealing_key()
        assert (done.secrets, done.sealed_anew, done.closed) == (2, 1, [stored.endpoint])

    def test_what_was_not_tried_is_not_taken_for_closed(self, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key that opens it would be dropped for good."""
        put = sealing.put_new_key_first

        def out_of_reach() -> None:
            put()
            key_file().rename(key_file().with_suffix(".aside"))
            key_file().mkdir()

        monkeypatch.setattr("distill.sealing.put_new_key_first", out_of_reach)
        with pytest.raises(CannotOpen, match="cannot be read"), unit_of_work() as s:
            key_rotation.rotate(s)

    def test_a_copied_row_does_not_open(self, stored: Stored) -> None:
        """The project is part of what is sealed."""
        with unit_of_work() as s:
            other = projects.ensure(s, "other").id
            s.execute(text("UPDATE connections SET project_id = :other WHERE id = :id"), {"other": other, "id": stored.connection})
        assert rotate_sealing_key().closed == [stored.connection]


class TestKeysOfTheEnvironment:
    def test_the_first_of_them(self, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
        old = keys_there()[0]
        new = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU="
        give(monkeypatch, old)
        with pytest.raises(StackError, match="holds one key"):
            rotate_sealing_key()
        give(monkeypatch, f"{new},{old}")
        assert [rotate_sealing_key().sealed_anew for _ in range(2)] == [2, 0]
        give(monkeypatch, new)
        assert stored.opens()
        assert keys_there() == [old]


def give(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv(sealing.VARIABLE, keys)
    forget_settings()


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not holds():
        pause.wait(0.01)
