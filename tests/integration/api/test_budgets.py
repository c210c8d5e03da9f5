"""Budgets over HTTP: given at submit, changed with PATCH, in the way of resume; the same from the SDK and the command line."""

import asyncio
import json
import time
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient
from typer.testing import CliRunner

from distill.db import unit_of_work
from distill.jobs import pausing
from distill.jobs.shortfall import Shortfall
from distill.relay import Amount
from stillhouse import AsyncStillhouse, PreconditionFailedError, Stillhouse
from stillhouse.cli.main import app
from stillhouse.cli.output import Exit
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body

SOON = int(time.time()) + 86_400


def create(api: TestClient, **budget: Any) -> dict[str, Any]:
    made = api.post("/v1/compile_jobs", json=job_body(budget=budget) if budget else job_body())
    assert made.status_code == 201, made.text
    return dict(made.json())


def spend(job_id: str, calls: int) -> None:
    """As if a worker had taken them, and stopped at the limit."""
    with unit_of_work() as s:
        s.execute(text("UPDATE jobs SET calls_taken = :calls WHERE id = :id"), {"calls": calls, "id": job_id})
    with unit_of_work() as s:
        assert pausing.stop_for_budget(s, job_id, Shortfall("max_calls", Amount(1)), calls)


class TestSubmit:
    def test_every_limit_is_returned(self, api: TestClient) -> None:
        limits = {"max_calls": 5, "max_tokens": 1000, "deadline": SOON}
        assert create(api, **limits)["budget"] == limits
        assert create(api)["budget"] == {}

    @pytest.mark.parametrize(
        ("budget", "code", "param"),
        [
            ({"max_calls": 0}, "invalid_value", "budget.max_calls"),
            ({"max_tokens": -1}, "invalid_value", "budget.max_tokens"),
            ({"max_cost_usd": 0}, "invalid_value", "budget.max_cost_usd"),
            ({"max_dollars": 1}, "unknown_option", "budget.max_dollars"),
            ({"deadline": "tomorrow"}, "invalid_value", "budget.deadline"),
            ({"deadline": 2**60}, "invalid_value", "budget.deadline"),
            ({"deadline": 1_600_000_000}, "deadline_passed", "budget.deadline"),
            ({"max_cost_usd": 1.5}, "price_unknown", "budget.max_cost_usd"),
        ],
    )
    def test_a_fault_names_its_place(self, api: TestClient, budget: dict[str, Any], code: str, param: str) -> None:
        refused = api.post("/v1/compile_jobs", json=job_body(budget=budget))
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (422, code, param)

    def test_an_unknown_price_names_the_model_and_the_fix(self, api: TestClient) -> None:
        error = api.post("/v1/compile_jobs", json=job_body(budget={"max_cost_usd": 1.5})).json()["error"]
        assert error["message"].startswith("budget.max_cost_usd: nobody has said what big/big-model costs (teacher[0].lms.student)")
        assert "[connections.big.prices]" in error["message"]
        assert [detail["field"] for detail in error["details"]] == ["teacher[0].lms.student", "lms.student"]


class TestPatch:
    def test_limits_that_are_left_out_stay_and_null_takes_one_away(self, api: TestClient) -> None:
        path = f"/v1/compile_jobs/{create(api, max_calls=5, max_tokens=1000)['id']}"
        changed = api.patch(path, json={"budget": {"max_calls": 7, "deadline": SOON}})
        assert (changed.status_code, changed.json()["budget"]) == (200, {"max_calls": 7, "max_tokens": 1000, "deadline": SOON})
        assert api.patch(path, json={"budget": {"max_tokens": None}}).json()["budget"] == {"max_calls": 7, "deadline": SOON}
        assert api.get(path).json()["budget"] == {"max_calls": 7, "deadline": SOON}
        told = [event["message"] for event in api.get(f"{path}/events").json()["data"] if event["message"].startswith("The budget")]
        assert told == [
            f"The budget was changed: max_calls 7, max_tokens 1000, deadline {SOON}",
            f"The budget was changed: max_calls 7, deadline {SOON}",
        ]

    def test_a_stale_change_is_412_and_changes_nothing(self, api: TestClient) -> None:
        job = create(api, max_calls=5)
        path = f"/v1/compile_jobs/{job['id']}"
        read = api.get(path)
        assert read.headers["etag"] == job["etag"] == read.json()["etag"]
        first = api.patch(path, json={"name": "mine"}, headers={"If-Match": job["etag"]})
        assert (first.status_code, first.headers["etag"]) == (200, first.json()["etag"])
        late = api.patch(path, json={"budget": {"max_calls": 9}}, headers={"If-Match": job["etag"]})
        assert (late.status_code, late.json()["error"]["type"], late.json()["error"]["code"]) == (412, "conflict_error", "stale")
        assert api.get(path).json()["budget"] == {"max_calls": 5}
        for matches in ("*", f'"other", {first.headers["etag"]}'):
            assert api.patch(path, json={"budget": {"max_calls": 5}}, headers={"If-Match": matches}).status_code == 200

    def test_what_happens_to_a_job_makes_no_change_stale(self, api: TestClient) -> None:
        job = create(api, max_calls=5)
        path = f"/v1/compile_jobs/{job['id']}"
        api.post(f"{path}/pause")
        assert api.patch(path, json={"name": "mine"}, headers={"If-Match": job["etag"]}).status_code == 200

    def test_a_limit_below_what_is_spent_is_refused(self, api: TestClient) -> None:
        job_id = create(api, max_calls=5)["id"]
        spend(job_id, 5)
        refused = api.patch(f"/v1/compile_jobs/{job_id}", json={"budget": {"max_calls": 4}})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (422, "budget_below_spent", "budget.max_calls")
        assert "5 are spent" in error["message"]

    @pytest.mark.parametrize(
        ("limits", "code"), [({"max_cost_usd": 3.0}, "price_unknown"), ({"deadline": 1_600_000_000}, "deadline_passed")]
    )
    def test_it_is_checked_as_at_submit(self, api: TestClient, limits: dict[str, Any], code: str) -> None:
        refused = api.patch(f"/v1/compile_jobs/{create(api)['id']}", json={"budget": limits})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, code)

    def test_the_budget_of_a_job_that_is_over_is_a_conflict_its_name_is_not(self, api: TestClient) -> None:
        path = f"/v1/compile_jobs/{create(api)['id']}"
        api.post(f"{path}/cancel")
        refused = api.patch(path, json={"budget": {"max_calls": 4}})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "job_over")
        assert api.patch(path, json={"name": "over"}).json()["name"] == "over"

    def test_who_may(self, api: TestClient, tokens: Tokens) -> None:
        path = f"/v1/compile_jobs/{create(api)['id']}"
        body = {"budget": {"max_calls": 4}}
        assert api.patch(path, json=body, headers={"Authorization": f"Bearer {tokens.read}"}).status_code == 403
        assert api.patch(path, json=body, headers={"Authorization": f"Bearer {tokens.other}"}).status_code == 404


class TestResume:
    def test_a_job_that_would_stop_again_is_a_conflict_that_says_what_to_raise(self, api: TestClient) -> None:
        job_id = create(api, max_calls=5)["id"]
        path = f"/v1/compile_jobs/{job_id}"
        spend(job_id, 5)
        paused = api.get(path).json()
        assert paused["status"] == "paused"
        assert (paused["pause"]["code"], paused["pause"]["param"]) == ("budget_exhausted", "budget.max_calls")
        assert paused["pause"]["data"] == {"limit": 5, "spent": 5, "next": 1, "needed": None}
        refused = api.post(f"{path}/resume")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (409, "budget_exhausted", "budget.max_calls")
        assert f"PATCH {path}" in error["message"]
        api.patch(path, json={"budget": {"max_calls": 6}})
        assert api.post(f"{path}/resume").json()["status"] == "queued"

    def test_the_event_of_the_pause_tells_the_same(self, api: TestClient) -> None:
        job_id = create(api, max_calls=5)["id"]
        spend(job_id, 5)
        event = api.get(f"/v1/compile_jobs/{job_id}/events").json()["data"][-1]
        assert (event["type"], event["data"]["status"]) == ("status", "paused")
        assert event["data"]["pause"]["data"]["limit"] == 5
        assert event["message"].startswith("The budget of 5 LM calls is spent.")


class TestClients:
    def test_sdk(self, address: str, tokens: Tokens) -> None:
        with Stillhouse(address, tokens.all) as client:
            job = client.compile_jobs.create(program=SPEC, trainset=ROWS, budget={"max_calls": 5})
            changed = client.compile_jobs.update(job.id, budget={"max_calls": 6, "max_tokens": 100}, name="mine", if_match=job.etag)
            assert (changed.name, changed.budget) == ("mine", {"max_calls": 6, "max_tokens": 100})
            with pytest.raises(PreconditionFailedError):
                client.compile_jobs.update(job.id, name="theirs", if_match=job.etag)
            assert client.compile_jobs.update(job.id, budget={"max_tokens": None}).budget == {"max_calls": 6}
            spend(job.id, 6)
            paused = client.compile_jobs.retrieve(job.id).pause
            assert paused is not None
            assert (paused.param, (paused.data or {})["spent"]) == ("budget.max_calls", 6)

    def test_async_sdk(self, address: str, tokens: Tokens) -> None:
        async def go() -> dict[str, Any]:
            async with AsyncStillhouse(address, tokens.all) as client:
                job = await client.compile_jobs.create(program=SPEC, trainset=ROWS)
                return (await client.compile_jobs.update(job.id, budget={"max_calls": 6}, if_match=job.etag)).budget

        assert asyncio.run(go()) == {"max_calls": 6}

    def test_command_line(self, api: TestClient, address: str, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_BASE_URL", address)
        monkeypatch.setenv("STILLHOUSE_API_KEY", tokens.all)
        job = create(api, max_calls=5)
        shell = CliRunner()

        def update(*options: str) -> Any:
            return shell.invoke(app, ["jobs", "update", job["id"], *options])

        shown = update(
            "--max-calls", "7", "--max-tokens", "1000", "--deadline", "3h", "--name", "mine", "--if-match", job["etag"], "--json"
        )
        changed = json.loads(shown.stdout)
        assert (changed["name"], changed["budget"]["max_calls"], changed["budget"]["max_tokens"]) == ("mine", 7, 1000)
        assert abs(changed["budget"]["deadline"] - time.time() - 3 * 3600) < 60
        assert update("--name", "theirs", "--if-match", job["etag"]).exit_code == Exit.FAILED
        assert json.loads(update("--deadline", "none", "--max-tokens", "none", "--json").stdout)["budget"] == {"max_calls": 7}
        assert update("--max-calls", "many").exit_code == Exit.USAGE
        refused = update("--max-cost-usd", "2.5")
        assert refused.exit_code == Exit.USAGE
        assert "nobody has said what big/big-model costs" in " ".join(refused.output.split())
