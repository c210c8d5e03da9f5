"""Requests that are sent at the same moment for what only one may have: each reply tells the truth, and what is kept agrees with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx
from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens, job_body
from tests.integration.api.finished import finish

AT_ONCE = 12
PROD = "/v1/aliases/router@prod"


def all_at_once(address: str, token: str, ask: Callable[[httpx.Client, int], httpx.Response]) -> list[httpx.Response]:
    """The replies to so many clients who wait for one another before they send; a 503 is asked again, as clients do."""
    ready = Barrier(AT_ONCE)

    def send(number: int) -> httpx.Response:
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
            client.get("/v1/me").raise_for_status()
            ready.wait()
            while (reply := ask(client, number)).status_code == 503:
                pass
            return reply

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(send, range(AT_ONCE)))


def test_an_alias_has_one_history(address: str, api: TestClient, tokens: Tokens) -> None:
    artifacts = [finish(api, f"sh-router-self-{n:08d}").artifact_id for n in range(3)]
    assert api.put(PROD, json={"artifact": artifacts[0]}).status_code == 200
    replies = all_at_once(address, tokens.all, lambda client, n: client.put(PROD, json={"artifact": artifacts[n % 3]}))
    assert {reply.status_code for reply in replies} == {200}
    moves = api.get(f"{PROD}/history", params={"limit": 100, "order": "asc"}).json()["data"]
    assert [move["previous_artifact"] for move in moves] == [None, *(move["artifact"] for move in moves[:-1])]
    assert api.get(PROD).json()["artifact"] == moves[-1]["artifact"]


def test_of_budgets_that_are_changed_from_one_state_one_is_kept(address: str, api: TestClient, tokens: Tokens) -> None:
    job = api.post("/v1/compile_jobs", json=job_body(budget={"max_calls": 100})).json()
    path, seen = f"/v1/compile_jobs/{job['id']}", {"If-Match": job["etag"]}
    replies = all_at_once(address, tokens.all, lambda client, n: client.patch(path, json={"budget": {"max_calls": 200 + n}}, headers=seen))
    assert Counter(reply.status_code for reply in replies) == {200: 1, 412: AT_ONCE - 1}
    (kept,) = (reply.json() for reply in replies if reply.status_code == 200)
    assert api.get(path).json()["budget"] == kept["budget"]
