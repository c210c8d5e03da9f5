"""The key of a project's connection at the moment of a call, also while the database does not answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from distill.catalog import connections, own_connections, projects
from distill.catalog.own_keys import OwnKey
from distill.db import unit_of_work
from distill.errors import NotFound
from tests.integration.core.test_connections import somebody_waits
from tests.integration.core.test_key_rotation import until
from tests.support.databases import forget_settings

KEY = "canary-5f3d9b1c7a2e4680-last"
OTHER_KEY = "another-8c1e5a7d3b9f2046-tail"


@pytest.fixture
def key(database: str, monkeypatch: pytest.MonkeyPatch) -> OwnKey:
    """One that is looked for again at each read."""
    monkeypatch.setattr("distill.catalog.own_keys.FRESH_SECONDS", 0.0)
    values: dict[str, Any] = {"kind": "lm_host", "base_url": "https://api.example.com/v1", "supports": [], "prices": {}, "max_in_flight": 4}
    with unit_of_work() as s:
        return OwnKey(own_connections.create(s, projects.ensure(s, "support").id, "ours", values, KEY, None))


def change_key() -> None:
    with unit_of_work() as s:
        project = projects.get(s, "support").id
        row = connections.find(s, "ours", project)
        assert row is not None
        own_connections.change(s, project, row.id, {"api_key": OTHER_KEY})


def test_while_one_caller_waits_for_the_database_others_use_what_is_known(key: OwnKey) -> None:
    with ThreadPoolExecutor(2) as pool:
        with unit_of_work() as s:
            s.execute(text("LOCK TABLE connections IN ACCESS EXCLUSIVE MODE"))
            hanging = pool.submit(key.read)
            until(somebody_waits)
            assert pool.submit(key.read).result(5) == KEY
            assert not hanging.done()
        assert hanging.result() == KEY


def test_a_database_that_did_not_answer_is_left_alone_for_a_while(key: OwnKey, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as away, capture_logs() as logs:
        away.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
        forget_settings()
        assert [key.read() for _ in range(3)] == [KEY] * 3
    forget_settings()
    assert [entry["event"] for entry in logs] == ["connection_key_not_read"]
    change_key()
    assert key.read() == KEY
    monkeypatch.setattr("distill.catalog.own_keys.REST_SECONDS", 0.0)
    assert key.read() == OTHER_KEY


def test_one_that_is_removed_is_asked_with_no_more(key: OwnKey) -> None:
    with unit_of_work() as s:
        row = connections.find(s, "ours", projects.get(s, "support").id)
        assert row is not None
        own_connections.remove(s, row)
    for _ in range(2):
        with pytest.raises(NotFound):
            key.read()
