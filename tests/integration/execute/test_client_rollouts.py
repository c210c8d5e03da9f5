"""Jobs whose rollouts are made by a client: an HTTP client plays the worker, and the house does all that follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from distill.db import unit_of_work
from distill.jobs import claims
from distill.pipeline.roles import UNTRAINED_TOKENS
from distill.settings import get_settings
from distill.storage import FolderStore
from tests.integration.execute.client_player import METRIC, OWN, TOML, Player, answers, create, token
from tests.integration.execute.house import SUPPORT, House, PretendTrainer, configured, rows
from tests.support.scripted_lm import ScriptedLM

Json = dict[str, Any]


@pytest.fixture
def house(database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
    with configured(tmp_path, TOML, teacher, student) as opened:
        yield opened


@pytest.mark.slow
class TestWholePath:
    def test_a_program_that_the_client_runs_is_trained_and_measured(self, house: House, api: TestClient) -> None:
        player = Player(api)
        job = house.run(create(api, multitask=False), until=player.play, seconds=240)
        assert job.status == "succeeded", job.error
        assert job.evaluation is not None
        assert job.evaluation["metric"] == "right_team"
        scores = {role: job.evaluation[role]["score"] for role in ("baseline", "teacher", "compiled")}
        assert scores == {"baseline": pytest.approx(0.3333), "teacher": 1.0, "compiled": 1.0}
        assert isinstance(house.trainer, PretendTrainer)
        assert sorted(len(each["texts"]) for each in house.trainer.jobs) == [8, 12], "of account there is nothing to train `reply` on"
        assert not house.teacher.calls
        assert not house.student.calls, "this server runs nothing of it"
        lms = {item["role"]: [lm.get("answer_tokens") for lm in item["programs"][0]["lms"].values()] for item in player.claims}
        assert (lms["teacher:0"], lms["baseline"]) == ([None], [UNTRAINED_TOKENS])
        assert sorted(lms["compiled"]) == [75, 78], "of the longest completions of both models"

        seen = api.get(f"/v1/compile_jobs/{job.id}").json()
        told = api.get(f"/v1/compile_jobs/{job.id}/events", params={"limit": 100}).json()["data"]
        assert [one["data"]["calls"] for one in told if one["type"] == "cost"][-1] == seen["cost"]["calls"]
        assert "sample" in {one["type"] for one in told}
        assert seen["rollouts"]["where"] == "client"
        assert seen["steps"][1]["counts"]["teacher_calls"] == 8 * 2 + 4
        paid = {(each["model"], each["side"]): each["calls"] for each in seen["cost"]["models"] if each["kind"] == "paid"}
        assert paid["teacher/big", "teacher"] == 8 * 2 + 4, "the held-out rows are among those: their traces were there"
        with unit_of_work() as s:
            assert set(s.scalars(text("SELECT DISTINCT source FROM traces"))) == {"client"}

    def test_the_claim_says_what_to_run(self, house: House, api: TestClient) -> None:
        job_id = create(api, rollouts={"n": 2})
        house.run(job_id, until=lambda job: job.step == "bootstrap", seconds=240)
        item = Player(api).claim(job_id)
        assert item is not None
        assert (item["role"], item["step"], item["attempt"], item["stop_on_pass"]) == ("teacher:0", "bootstrap", 1, True)
        assert [program["rollouts"] for program in item["programs"]] == [[0], [1]]
        (lm,) = item["programs"][1]["lms"].values()
        assert (lm["model"], lm["options"]) == ("teacher/big", {"temperature": 1.0})
        example = item["examples"][0]
        assert (example["row"], example["inputs"], example["labels"]) == (
            1,
            {"message": "Message 0 about billing"},
            {"category": "billing"},
        )
        assert [(rollout["n"], rollout["trace"], rollout["score"]) for rollout in example["rollouts"]] == [(0, None, None), (1, None, None)]


@pytest.fixture
def job_id(house: House, api: TestClient) -> str:
    """A job whose bootstrap waits for its client."""
    made = create(api)
    house.run(made, until=lambda job: job.step == "bootstrap", seconds=240)
    return made


@pytest.mark.slow
class TestLease:
    def test_a_client_that_goes_away_leaves_a_job_that_waits_and_goes_on(
        self, api: TestClient, job_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "waits for a client" in api.get(f"/v1/compile_jobs/{job_id}").json()["queue"]["reason"]
        gone = Player(api)
        item = gone.claim(job_id)
        assert item is not None
        gone.send(item, item["examples"][:4])
        monkeypatch.setenv("STILLHOUSE_TIMERS__LEASE_SECONDS", "0.1")  # the database has been up for longer: leases may be reaped
        get_settings.cache_clear()
        again = item
        for _ in range(4):  # more often than would fail a worker's item
            lapse(item["id"])
            assert "waits for a client" in api.get(f"/v1/compile_jobs/{job_id}").json()["queue"]["reason"]
            found = Player(api, name="another").claim(job_id)
            assert found is not None
            assert found["fence"] > again["fence"]
            again = found
        assert [each["rollouts"][0]["trace"] is not None for each in again["examples"]] == [True] * 4 + [False] * 6

        late = gone.publish(item)
        assert (late.status_code, late.json()["error"]["code"]) == (409, "lost_lease")
        beat = api.post("/v1/work_items/beat", json={"id": item["id"], "fence": item["fence"]})
        assert (beat.status_code, beat.json()["error"]["code"]) == (409, "lost_lease")
        assert api.post("/v1/work_items/release", json={"id": again["id"], "fence": again["fence"]}).json()["status"] == "queued"
        back = gone.claim(job_id)
        assert back is not None
        gone.send(back, back["examples"])
        assert gone.publish(back).json()["status"] == "succeeded"

    def test_a_beat_keeps_it_and_brings_a_cancel(self, api: TestClient, job_id: str) -> None:
        player = Player(api)
        item = player.claim(job_id)
        assert item is not None
        held = {"id": item["id"], "fence": item["fence"]}
        assert api.post("/v1/work_items/beat", json={**held, "done": 3}).json()["cancel"] is False
        api.post(f"/v1/compile_jobs/{job_id}/cancel")
        assert api.post("/v1/work_items/beat", json=held).json()["cancel"] is True
        player.send(item, item["examples"])
        assert player.publish(item).status_code == 409
        assert api.post("/v1/work_items/release", json=held).status_code == 200
        assert api.get(f"/v1/compile_jobs/{job_id}").json()["status"] == "cancelled"

    def test_a_beat_that_renews_nothing_says_so(self, api: TestClient, job_id: str) -> None:
        item = Player(api).claim(job_id)
        assert item is not None
        held = {"id": item["id"], "fence": item["fence"]}
        run_out(item["id"])  # and the dispatcher has not found it yet
        late = api.post("/v1/work_items/beat", json=held)
        assert (late.status_code, late.json()["error"]["code"]) == (409, "lost_lease")
        assert api.post("/v1/work_items/release", json=held).json()["status"] == "queued"

    def test_what_cannot_be_read_holds_up_its_own_job_alone(self, house: House, api: TestClient, job_id: str) -> None:
        plan = house.job(job_id).plan
        assert plan is not None
        kept = house.store.read(plan["split"])
        house.store.path(plan["split"]).unlink()
        other = create(api, 13)
        house.run(other, until=lambda job: job.step == "bootstrap", seconds=240)
        player = Player(api)
        found = [player.claim() for _ in range(5)]  # the older job's turn comes first; its held-out rows can be read
        assert found[0] is None
        assert other in {item["job"] for item in found if item is not None}

        told = api.get(f"/v1/compile_jobs/{job_id}/events").json()["data"]
        assert "blob_missing" in {each["data"]["code"] for each in told if each["level"] == "warning"}
        house.store.put(kept)
        with unit_of_work() as s:
            s.execute(text("UPDATE work_items SET run_after = clock_timestamp() WHERE job_id = :id"), {"id": job_id})
        again = player.claim(job_id)
        assert again is not None
        assert again["attempt"] > 1

    def test_nobody_waits_while_rows_are_read(self, house: House, api: TestClient, job_id: str) -> None:
        assert isinstance(house.store, FolderStore)
        api.app.routes.state.services.store = store = Looking(house.store.root)  # type: ignore[attr-defined]
        Player(api).play(house.job(job_id))
        assert store.opened > 1

    def test_nothing_is_published_half(self, api: TestClient, job_id: str) -> None:
        player = Player(api)
        item = player.claim(job_id)
        assert item is not None
        player.send(item, item["examples"][1:])
        refused = player.publish(item)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "work_item_incomplete")
        assert refused.json()["error"]["details"] == [{"row": 1, "field": None, "message": "rollout 0 has no trace"}]
        assert player.publish(item, undecided=[{"row": 99, "code": "timeout"}]).status_code == 422
        for _ in range(2):  # the second time changes nothing
            assert player.publish(item, undecided=[{"row": 1, "code": "timeout"}]).json()["status"] == "succeeded"

    def test_another_project_sees_and_gets_nothing(self, api: TestClient, job_id: str) -> None:
        item = Player(api).claim(job_id)
        assert item is not None
        api.headers["Authorization"] = f"Bearer {token('other')}"
        assert Player(api).claim(job_id) is None
        assert Player(api).claim() is None
        held = {"id": item["id"], "fence": item["fence"]}
        for verb in ("beat", "publish", "release"):
            assert api.post(f"/v1/work_items/{verb}", json=held).status_code == 404
        trace = {"role": "teacher:0", "row": 1, "status": "ok", "outputs": {}}
        assert api.post(f"/v1/compile_jobs/{job_id}/traces", json={"traces": [trace]}).status_code == 404

    def test_first_examples_that_do_not_pass_stop_the_job(self, house: House, api: TestClient, job_id: str) -> None:
        player = Player(api, run=lambda example, role: {**answers(example, role), "outputs": {"category": "no team"}})
        item = player.claim(job_id)
        assert item is not None
        player.send(item, item["examples"])
        assert player.publish(item).json()["status"] == "failed"
        job = house.job(job_id)
        assert job.error is not None
        assert (job.status, job.error["code"]) == ("failed", "smoke_test_failed")


@pytest.mark.slow
class TestFacts:
    def send(self, api: TestClient, job_id: str, part: str, *facts: Json, **more: Any) -> tuple[int, Json]:
        reply = api.post(f"/v1/compile_jobs/{job_id}/{part}", json={part: list(facts), **more})
        return reply.status_code, reply.json()

    def test_what_is_sent_twice_is_stored_once(self, api: TestClient, job_id: str) -> None:
        traces = [{"role": "teacher:0", "row": row, "status": "ok", "outputs": {"category": "billing"}} for row in (3, 1)]
        assert self.send(api, job_id, "traces", *traces)[1] == {"object": "stored", "received": 2, "new": 2}
        assert self.send(api, job_id, "traces", *traces)[1]["new"] == 0
        scores = [{"role": "teacher:0", "row": row, "value": 1.0} for row in (1, 3)]
        assert [self.send(api, job_id, "scores", *scores)[1]["new"] for _ in range(2)] == [2, 0]

    def test_a_metric_that_failed_is_asked_again(self, api: TestClient, job_id: str) -> None:
        player = Player(api)
        item = player.claim(job_id)
        assert item is not None
        player.send(item, item["examples"][1:])
        trace = {"role": "teacher:0", "row": 1, "status": "ok", "outputs": {"category": "billing"}}
        failed = {"role": "teacher:0", "row": 1, "value": None, "status": "failed", "error": "RateLimitError: 429"}
        self.send(api, job_id, "traces", trace)
        assert [self.send(api, job_id, "scores", failed)[1]["new"] for _ in range(2)] == [1, 0]
        api.post("/v1/work_items/release", json={"id": item["id"], "fence": item["fence"]})

        again = player.claim(job_id)
        assert again is not None
        seen = [(rollout["trace"] is None, rollout["score"] is None) for example in again["examples"] for rollout in example["rollouts"]]
        assert seen == [(False, True)] + [(False, False)] * (len(seen) - 1)
        score = {"role": "teacher:0", "row": 1, "value": 1.0}
        assert [self.send(api, job_id, "scores", each)[1]["new"] for each in (score, failed, {**score, "value": 0.0})] == [1, 0, 0]
        assert player.publish(again).json()["status"] == "succeeded"
        counts = api.get(f"/v1/compile_jobs/{job_id}").json()["steps"][1]["counts"]
        assert (counts["passed"], counts["metric_failed"]) == (len(seen), 0)

    def test_a_score_is_stored_for_the_answer_that_it_judged(self, api: TestClient, job_id: str) -> None:
        """Two clients made one rollout, since the lease of the first ran out; the first trace counts, with its own score."""
        place, billing, sales = {"role": "teacher:0", "row": 1}, {"category": "billing"}, {"category": "sales"}
        assert self.send(api, job_id, "traces", {**place, "status": "ok", "outputs": billing})[1]["new"] == 1
        assert self.send(api, job_id, "traces", {**place, "status": "failed", "error": {"type": "Timeout"}})[1]["new"] == 0
        other = self.send(api, job_id, "scores", {**place, "value": 0.0, "outputs": sales})[1]
        assert other == {"object": "stored", "received": 1, "new": 0, "skipped": 1}
        own = self.send(api, job_id, "scores", {**place, "value": 1.0, "outputs": billing})[1]
        assert own == {"object": "stored", "received": 1, "new": 1, "skipped": 0}
        item = Player(api).claim(job_id)
        assert item is not None
        (stored,) = item["examples"][0]["rollouts"]
        assert (stored["trace"]["outputs"], stored["score"]["value"], stored["score"]["passed"]) == (billing, 1.0, True)

    def test_what_was_paid_is_told_when_it_comes_and_once(self, api: TestClient, job_id: str) -> None:
        player = Player(api)
        item = player.claim(job_id)
        assert item is not None
        player.send(item, item["examples"])
        player.send(item, item["examples"])  # its reply was lost
        seen = api.get(f"/v1/compile_jobs/{job_id}").json()["cost"]["models"]
        assert [(each["kind"], each["model"], each["prompt_tokens"]) for each in seen] == [("paid", "teacher/big", paid_tokens(item))]
        assert player.publish(item).json()["status"] == "succeeded"
        assert api.get(f"/v1/compile_jobs/{job_id}").json()["cost"]["models"] == seen

    def test_a_fact_that_belongs_nowhere_is_refused(self, api: TestClient, job_id: str) -> None:
        trace, score = {"status": "ok", "outputs": {"category": "billing"}}, {"value": 1.0}
        for part, fact, code, param in (
            ("traces", {**trace, "role": "teacher:1"}, "unknown_role", "traces[0].role"),
            ("traces", {**trace, "role": "compiled"}, "unknown_role", "traces[0].role"),
            ("traces", {**trace, "role": "demos:drop"}, "unknown_role", "traces[0].role"),
            ("traces", {**trace, "role": "teacher:-1"}, "unknown_role", "traces[0].role"),
            ("traces", {**trace, "role": "x:0"}, "unknown_role", "traces[0].role"),
            ("traces", {**trace, "role": "foo"}, "unknown_role", "traces[0].role"),
            ("traces", {**trace, "row": 13}, "invalid_rows", "traces"),
            ("traces", {**trace, "rollout": 1}, "invalid_value", "traces[0].rollout"),
            ("traces", {**trace, "calls": [{"predictor": "reply", "inputs": {}, "lm": "gpt"}]}, "unknown_lm", "traces[0]"),
            ("traces", {**trace, "status": "failed"}, "invalid_value", "traces[0]"),
            ("scores", score, "unknown_trace", "scores"),
            ("scores", {}, "invalid_value", "scores[0]"),
        ):
            status, body = self.send(api, job_id, part, {"role": "teacher:0", "row": 1, **fact})
            assert (status, body["error"]["code"], body["error"]["param"]) == (422, code, param)
        assert self.send(api, job_id, "traces", *[{"role": "teacher:0", "row": 1, **trace}] * 501)[0] == 422

    def test_a_job_without_a_plan_takes_none(self, house: House, api: TestClient) -> None:
        trace = {"role": "teacher:0", "row": 1, "status": "ok", "outputs": {}}
        assert self.send(api, create(api, auto_start=False), "traces", trace)[0] == 409


@pytest.mark.slow
class TestIdentity:
    def test_traces_without_an_identity_are_found_by_their_source(self, api: TestClient, job_id: str) -> None:
        failed = {"row": 1, "status": "failed", "error": {"type": "KeyError", "message": "'team'"}}
        sent = [{"role": "teacher:0", **each} for each in (failed, {"row": 3, "status": "ok", "outputs": {"category": "billing"}})]
        assert api.post(f"/v1/compile_jobs/{job_id}/traces", json={"traces": sent}).json()["new"] == 2
        other_source = {**OWN, "client": {**with_identity("a")["client"], "source": "2" * 64}}
        assert [stored(api, with_identity("a")), stored(api, OWN), stored(api, other_source)] == [2, 2, 0]
        assert stored(api, with_identity("a"), rollouts={"retry_failed": True}) == 1
        tokens = "tokens of teacher:0: this program has not been run here"
        assert [tokens in estimate(api, program)["unknown"] for program in (with_identity("a"), OWN, other_source)] == [False, False, True]


def with_identity(digit: str) -> Json:
    return {**OWN, "client": {**OWN["client"], "identity": digit * 64}}


def stored(api: TestClient, program: Json, **changes: Any) -> int:
    """How many examples a teacher would not be asked about."""
    return int(next(each["stored"] for each in estimate(api, program, **changes)["roles"] if each["role"] == "teacher:0"))


def estimate(api: TestClient, program: Json, **changes: Any) -> Json:
    body = {"program": program, "trainset": rows(12), "valset": rows(3), "metric": METRIC, **changes}
    reply = api.post("/v1/compile_jobs/estimate", json=body)
    assert reply.status_code == 200, reply.text
    found: Json = reply.json()
    return found


class TestSubmit:
    def test_what_only_its_caller_has_does_not_run_on_the_server(self, api: TestClient) -> None:
        for part in ({"program": OWN, "metric": "exact_match"}, {"program": SUPPORT, "metric": METRIC}):
            body = {"trainset": rows(3), "rollouts": {"where": "server"}, **part}
            refused = api.post("/v1/compile_jobs", json=body).json()["error"]
            assert (refused["code"], refused["param"]) == ("runs_at_the_client", "rollouts.where")

    def test_a_program_of_the_client_has_inputs_and_no_wiring(self, api: TestClient) -> None:
        for part in ("steps", "outputs"):
            refused = api.post("/v1/programs", json={"spec": {**OWN, part: SUPPORT[part]}}).json()["error"]
            assert refused["param"].endswith(part)
        assert api.post("/v1/programs", json={"spec": OWN}).json()["inputs"] == ["message"]

    @pytest.mark.slow
    def test_a_spec_can_be_run_by_a_client_too(self, house: House, api: TestClient) -> None:
        job = house.run(create(api, program=SUPPORT, rollouts={"where": "client"}), until=Player(api).play, seconds=240)
        assert job.status == "succeeded", job.error
        assert not house.teacher.calls


def paid_tokens(item: Json) -> int:
    return sum(10 * len(answers(example, item["role"])["calls"]) for example in item["examples"])


class Looking(FolderStore):
    """A store that refuses to be read from while somebody has a work item or a job locked."""

    opened = 0

    def open(self, digest: str) -> BinaryIO:
        with unit_of_work() as s:
            s.execute(text("SELECT 1 FROM work_items FOR UPDATE NOWAIT"))
            s.execute(text("SELECT 1 FROM jobs FOR UPDATE NOWAIT"))
        self.opened += 1
        return super().open(digest)


def lapse(item_id: str) -> None:
    """Let a lease run out and be found, as the dispatcher's reaper does."""
    run_out(item_id)
    with unit_of_work() as s:
        assert claims.reap(s) is not None


def run_out(item_id: str) -> None:
    with unit_of_work() as s:
        s.execute(
            text("UPDATE work_items SET lease_expires_at = clock_timestamp() - interval '1 hour' WHERE id = :id"),
            {"id": int(item_id.removeprefix("work-"))},
        )
