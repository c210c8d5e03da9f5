"""A processor that the LM host shares with a trainer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from engines.lmhost.engine import Engine
from engines.lmhost.server import create_app
from engines.sharing import Sign
from tests.support.server_process import wait_until
from tests.unit.lmhost.asker import MakeEngine, chat

PASSES = 5


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """One that computes each token in a pass of its own."""
    return make_engine(cache=False, jump=False, drafts=False)


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine, None)) as client:
        yield client


def ask(client: TestClient, engine: Engine, text: str, max_tokens: int, **headers: str) -> Any:
    body = {"model": engine.base.id, "messages": chat(text), "max_tokens": max_tokens, "temperature": 0}
    return client.post("/v1/chat/completions", json=body, headers=headers)


def rounds(engine: Engine, count: int) -> int:
    """Wake the engine so often, each time for a pass unless it rests. How many passes it has made."""
    for _ in range(count):
        engine.submit([]).result(60)
    return engine.stats.passes


def test_what_nobody_waits_for_rests_while_something_is_trained_and_what_somebody_waits_for_does_not(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But it does not rest for ever: its caller would give up."""
    monkeypatch.setattr("engines.lmhost.engine.REST", 1e9)
    training = Sign("training")
    training.show()
    with ThreadPoolExecutor(1) as pool:
        evaluation = pool.submit(ask, client, engine, "Evaluate", 60, priority="u=7")
        wait_until(lambda: engine.stats.passes > 0, "it does not begin")
        assert ask(client, engine, "Answer", 3).status_code == 200
        passes = rounds(engine, 2)  # the last one with somebody who waited may still be under way
        assert (rounds(engine, PASSES), evaluation.done()) == (passes, False)
        monkeypatch.setattr("engines.lmhost.engine.PATIENCE_SECONDS", 0.0)
        assert rounds(engine, PASSES) > passes
        assert evaluation.result(60).status_code == 200


def test_it_shows_that_it_answers_somebody(client: TestClient, engine: Engine) -> None:
    answering = Sign("answering")
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, client, engine, "Go on", 400)
        wait_until(answering.is_shown, "it does not show it")
        assert reply.result(60).status_code == 200
    wait_until(lambda: not answering.is_shown(), "it goes on showing it")
