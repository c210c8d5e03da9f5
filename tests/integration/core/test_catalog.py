"""What a job points at: keys, connections, programs, the trace store, models, devices, artifacts."""

from typing import Any

import pytest
from sqlalchemy import text

from distill.catalog import (
    artifacts,
    blobs,
    devices,
    fine_tuned,
    keys,
    programs,
    projects,
    row_facts,
    scores,
    traces,
)
from distill.catalog.devices import DeviceState
from distill.db import unit_of_work
from distill.errors import Conflict, Invalid, LostLease, NotFound, StorageError, Unauthenticated
from distill.jobs import claims, outbox, repository, service
from distill.jobs.claims import Claim
from distill.storage import BlobStore, FolderStore
from tests.integration.core.world import PROGRAM, World, connection, execute, publish, taken
from tests.support.s3 import S3Server


class TestKeys:
    def test_token_proves_its_project_and_scopes(self, world: World) -> None:
        with unit_of_work() as s:
            key, token = keys.create(s, world.project_id, "ci", ["jobs:read"])
        assert token.startswith(f"sh_{key.token_id}_")
        with unit_of_work() as s:
            caller = keys.verify(s, token)
        assert (caller.key_id, caller.project_id, caller.project_name) == (key.id, world.project_id, "support")
        assert caller.may("jobs:read")
        assert not caller.may("jobs:write")

    def test_secret_is_not_stored(self, world: World) -> None:
        with unit_of_work() as s:
            _, token = keys.create(s, world.project_id, "ci")
            stored = s.execute(text("SELECT row_to_json(k)::text FROM api_keys k")).scalar_one()
        assert token.split("_", 2)[2] not in stored

    @pytest.mark.parametrize(
        "spoil", [lambda t: t[:-1] + "!", lambda t: t.replace("sh_", "xx_"), lambda t: t.split("_")[0], lambda t: "", lambda t: t + "\x00"]
    )
    def test_wrong_token_is_refused(self, world: World, spoil: Any) -> None:
        with unit_of_work() as s:
            _, token = keys.create(s, world.project_id, "ci")
        with pytest.raises(Unauthenticated), unit_of_work() as s:
            keys.verify(s, spoil(token))

    @pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
    def test_ended_key_is_refused(self, world: World, column: str) -> None:
        with unit_of_work() as s:
            _, token = keys.create(s, world.project_id, "ci")
        execute(f"UPDATE api_keys SET {column} = clock_timestamp()")
        with pytest.raises(Unauthenticated), unit_of_work() as s:
            keys.verify(s, token)

    def test_unknown_scope(self, world: World) -> None:
        with pytest.raises(Invalid, match='did you mean "jobs:read"'), unit_of_work() as s:
            keys.create(s, world.project_id, "ci", ["job:read"])


class TestPrograms:
    def test_same_spec_is_one_program(self, world: World) -> None:
        with unit_of_work() as s:
            again = world.program(s, PROGRAM)
            other = world.program(s, {**PROGRAM, "prompt_adapter": {"type": "json"}})
        assert again == world.program_id != other

    def test_deleted_program_is_gone_until_it_is_sent_again(self, world: World) -> None:
        with unit_of_work() as s:
            programs.delete(s, world.project_id, world.program_id)
        with pytest.raises(NotFound), unit_of_work() as s:
            programs.get(s, world.project_id, world.program_id)
        with unit_of_work() as s:
            assert world.program(s, PROGRAM) == world.program_id

    def test_users_keys_keep_their_order(self, world: World) -> None:
        demo = {"category": "billing", "message": "z"}
        raw = {**PROGRAM, "predictors": [{**PROGRAM["predictors"][0], "demos": [demo]}]}
        with unit_of_work() as s:
            program = world.program(s, raw)
        with unit_of_work() as s:
            assert list(programs.load(s, program).predictors[0].demos[0]) == ["category", "message"]

    def test_fault_names_its_place(self) -> None:
        with pytest.raises(Invalid) as refusal:
            programs.read_program({"predictors": [{"name": "self"}]}, "program")
        assert (refusal.value.code, refusal.value.param) == ("invalid_program", "program.predictors[0].lm")


class TestTraces:
    def test_first_trace_of_a_digest_stays(self, world: World) -> None:
        with unit_of_work() as s:
            assert traces.store(s, [_trace(world, "v1:a", {"b": 1, "a": 2}), _trace(world, "v1:a", {"a": 9})]) == 1
            assert traces.store(s, [_trace(world, "v1:a", {"a": 9}), _trace(world, "v1:b", {})]) == 1
        with unit_of_work() as s:
            found = traces.lookup(s, world.project_id, ["v1:a", "v1:nothing"])
            assert traces.known(s, world.project_id, ["v1:a", "v1:b", "v1:c"]) == {"v1:a", "v1:b"}
        assert list(found) == ["v1:a"]
        assert list(found["v1:a"].body["inputs"]) == ["b", "a"]

    def test_another_project_sees_nothing(self, world: World) -> None:
        other, _ = world.other_project("other")
        with unit_of_work() as s:
            traces.store(s, [_trace(world, "v1:a", {})])
            assert traces.lookup(s, other, ["v1:a"]) == {}

    def test_many_traces_fill_several_partitions(self, world: World) -> None:
        with unit_of_work() as s:
            assert traces.store(s, [_trace(world, f"v1:{number}", {}) for number in range(200)]) == 200
            parts = s.execute(text("SELECT count(DISTINCT tableoid) FROM traces")).scalar_one()
        assert parts == 8

    def test_the_newest_of_a_program_with_failed_ones_or_without(self, world: World) -> None:
        with unit_of_work() as s:
            traces.store(s, [_trace(world, "v1:a", {}, status="failed"), _trace(world, "v1:b", {})])
            found = [traces.newest(s, world.project_id, "v1:program", "v1:lms", 9, failed=failed) for failed in (True, False)]
        assert [{body["status"] for body in bodies} for bodies in found] == [{"ok", "failed"}, {"ok"}]

    @pytest.mark.parametrize("value", ["\x00", "\ud800", "tab\t and \\ backslash", "\\N"])
    def test_hostile_text_comes_back_as_it_was(self, world: World, value: str) -> None:
        with unit_of_work() as s:
            traces.store(s, [_trace(world, "v1:a", {"x": value})])
            assert traces.lookup(s, world.project_id, ["v1:a"])["v1:a"].body["inputs"] == {"x": value}

    def test_timeouts_are_no_facts(self, world: World) -> None:
        with pytest.raises(ValueError, match="no fact"), unit_of_work() as s:
            traces.store(s, [_trace(world, "v1:a", {}, status="timeout")])


class TestScores:
    def test_passing_depends_on_the_bar(self, world: World) -> None:
        with unit_of_work() as s:
            scores.store(s, [_score(world, "t", {"value": 0.8, "status": "ok", "feedback": "fine\x00", "error": None})])
            low = scores.lookup(s, world.project_id, "m", [("t", "e")], 0.5)
            high = scores.lookup(s, world.project_id, "m", [("t", "e"), ("t", "x")], 1.0)
        assert low == {("t", "e"): {"value": 0.8, "passed": True, "status": "ok", "feedback": "fine\ufffd", "error": None}}
        assert [score["passed"] for score in high.values()] == [False]

    def test_the_largest_slice_is_looked_up_at_once(self, world: World) -> None:
        """512 examples of 64 rollouts each: more than one statement may ask for."""
        pairs = [(f"t{n}", "e") for n in range(512 * 64)]
        with unit_of_work() as s:
            passed = {"value": 1.0, "status": "ok", "feedback": None, "error": None}
            scores.store(s, [_score(world, digest, passed) for digest in ("t0", "t20000", "t32767")])
            assert set(scores.lookup(s, world.project_id, "m", pairs, 1.0)) == {("t0", "e"), ("t20000", "e"), ("t32767", "e")}

    def test_undecided_score_has_no_value(self, world: World) -> None:
        with unit_of_work() as s:
            scores.store(s, [_score(world, "t", {"value": None, "status": "inconclusive", "feedback": None, "error": None})])
            assert scores.lookup(s, world.project_id, "m", [("t", "e")], 0.0)[("t", "e")]["passed"] is False

    def test_rollout_without_an_answer_never_passes(self, world: World) -> None:
        """It scores 0, which a bar of 0 would let through: the example would stop there instead of taking its next sample."""
        with unit_of_work() as s:
            scores.store(s, [_score(world, "t", {"value": 0.0, "status": "ok", "feedback": None, "error": "the rollout ended failed"})])
            assert scores.lookup(s, world.project_id, "m", [("t", "e")], 0.0)[("t", "e")]["passed"] is False


class TestRowFacts:
    def test_told_again_replaces(self, world: World) -> None:
        job_id = world.submit()
        fact = row_facts.NewFact(
            job_id, "rejected", "teacher:0", 4, 0, "ok", call=1, predictor="self", reason="too_long", message="900 tokens"
        )
        with unit_of_work() as s:
            row_facts.store(s, [fact])
            row_facts.store(s, [row_facts.NewFact(job_id, "rejected", "teacher:0", 4, 0, "ok", call=1, reason="override")])
            assert row_facts.reasons(s, job_id) == {"override": 1}

    def test_pages_follow_the_order_of_writing(self, world: World) -> None:
        job_id = world.submit()
        with unit_of_work() as s:
            row_facts.store(s, [row_facts.NewFact(job_id, "rollout", "baseline", number, 0, "ok", score=1.0) for number in range(5)])
            first = row_facts.page(s, job_id, "rollout", limit=3)
            rest = row_facts.page(s, job_id, "rollout", after=first.data[-1].id, limit=3)
        assert [fact.example_index for fact in [*first.data, *rest.data]] == [0, 1, 2, 3, 4]
        assert (first.has_more, rest.has_more) == (True, False)


class TestModels:
    def test_model_is_ready_when_its_host_has_loaded_it(self, world: World) -> None:
        model_id = _model(world)
        with unit_of_work() as s:
            served = fine_tuned.served(s, world.project_id, model_id)
            assert (served.ready, served.connection.name) == (False, "house")
            fine_tuned.want(s, model_id, served.connection.id)
            [(placement, _)] = fine_tuned.on_connection(s, served.connection.id)
            fine_tuned.set_placement(s, placement.id, "loading", agent="a1")
            fine_tuned.set_placement(s, placement.id, "ready")
            s.expire_all()
            assert fine_tuned.served(s, world.project_id, model_id).ready

    def test_failed_placement_says_why_and_can_be_wanted_again(self, world: World) -> None:
        model_id = _model(world)
        with unit_of_work() as s:
            house = connection("house").id
            fine_tuned.want(s, model_id, house)
            [(placement, _)] = fine_tuned.on_connection(s, house)
            fine_tuned.set_placement(s, placement.id, "failed", error="no such file")
            fine_tuned.want(s, model_id, house)
            assert fine_tuned.of_models(s, [model_id])[model_id].status == "wanted"

    def test_deleted_model_is_to_be_unloaded(self, world: World) -> None:
        model_id = _model(world)
        with unit_of_work() as s:
            fine_tuned.want(s, model_id, connection("house").id)
            fine_tuned.delete(s, world.project_id, model_id)
            assert fine_tuned.of_models(s, [model_id])[model_id].status == "unwanted"
        with pytest.raises(NotFound), unit_of_work() as s:
            fine_tuned.get(s, world.project_id, model_id)


class TestDevices:
    @pytest.fixture(autouse=True)
    def _pause(self, world: World) -> None:
        with unit_of_work() as s:
            devices.configure(s, "cpu-0", "pause")

    def test_where_the_memory_decides_a_lease_runs_beside_the_host_until_it_asks_for_the_hosts_room(self, world: World) -> None:
        """And the next one begins beside it again."""
        world.submit()
        held = taken()
        with unit_of_work() as s:
            devices.configure(s, "cpu-0", "auto")
            state = devices.acquire(s, "cpu-0", held.item_id, 60)
            assert state is not None
            assert (state.wanted, state.granted, state.beside) == (False, True, True)
            devices.take_alone(s, "cpu-0", state.fence)
            again = devices.acquire(s, "cpu-0", held.item_id, 60)
            assert again is not None
            assert (again.wanted, again.granted, again.beside) == (True, False, False)
            assert devices.acknowledge(s, "cpu-0", again.fence)
            assert devices.state(s, "cpu-0").granted
            devices.release(s, held.item_id)
            following = devices.acquire(s, "cpu-0", held.item_id, 60)
        assert following is not None
        assert (following.granted, following.beside, following.fence) == (True, True, state.fence + 1)

    def test_hand_over_from_wish_to_return(self, world: World) -> None:
        world.submit()
        held = taken()
        with unit_of_work() as s:
            state = devices.acquire(s, "cpu-0", held.item_id, 60)
            assert state is not None
            assert (state.wanted, state.granted) == (True, False)
            assert devices.acknowledge(s, "cpu-0", state.fence)
            again = devices.acquire(s, "cpu-0", held.item_id, 60)
            assert again is not None
            assert again.granted
            assert again.fence == state.fence
        assert connection("house").waiting_since is not None
        publish(held)
        with unit_of_work() as s:
            assert not devices.state(s, "cpu-0").leased
            devices.taken_back(s, "cpu-0")
        assert connection("house").waiting_since is None

    def test_what_waited_for_the_host_is_hinted_at(self, world: World) -> None:
        world.submit()
        execute("UPDATE work_items SET connections = ARRAY(SELECT id FROM connections WHERE name = 'house')")
        execute("UPDATE connections SET waiting_since = clock_timestamp() WHERE name = 'house'")
        with unit_of_work() as s:
            assert outbox.take_due(s) == []
            devices.taken_back(s, "cpu-0")
            assert [hint.queue for hint in outbox.take_due(s)] == ["rollouts"]

    def test_second_item_waits_for_the_first(self, world: World) -> None:
        world.submit()
        world.submit()
        first, second = taken(), taken()
        with unit_of_work() as s:
            assert devices.acquire(s, "cpu-0", first.item_id, 60) is not None
            assert devices.acquire(s, "cpu-0", second.item_id, 60) is None
            claims.release(s, first)
            state = devices.acquire(s, "cpu-0", second.item_id, 60)
        assert state is not None
        assert state.fence == 2

    def test_late_acknowledgement_counts_for_nothing(self, world: World) -> None:
        world.submit()
        held = taken()
        with unit_of_work() as s:
            state = devices.acquire(s, "cpu-0", held.item_id, 60)
            assert state is not None
            claims.release(s, held)
            assert not devices.acknowledge(s, "cpu-0", state.fence)
        assert connection("house").waiting_since is None

    def handed_over(self, world: World) -> tuple[Claim, DeviceState]:
        """An item that has the device, whose host has let go."""
        world.submit()
        held = taken()
        with unit_of_work() as s:
            state = claims.lease_device(s, held, "cpu-0")
            assert state is not None
            assert devices.acknowledge(s, "cpu-0", state.fence)
        return held, state

    def test_a_lease_that_ran_out_is_handed_over_anew(self, world: World) -> None:
        """The host took its room back meanwhile: that it had let go before is worth nothing to a holder that stood still."""
        held, state = self.handed_over(world)
        execute("UPDATE devices SET lease_expires_at = clock_timestamp() - interval '1 second'")
        with unit_of_work() as s:
            again = claims.lease_device(s, held, "cpu-0")
        assert again is not None
        assert (again.granted, again.wanted, again.fence) == (False, True, state.fence + 1)

    def test_an_agent_that_stood_still_does_not_end_the_wait_for_a_sleeping_host(self, world: World) -> None:
        """It saw the device free; meanwhile another agent has handed it over."""
        self.handed_over(world)
        with unit_of_work() as s:
            devices.taken_back(s, "cpu-0")
        assert connection("house").waiting_since is not None

    def test_only_the_holder_of_the_item_gets_a_device(self, world: World) -> None:
        world.submit()
        held = taken()
        with unit_of_work() as s:
            claims.release(s, held)
        with pytest.raises(LostLease), unit_of_work() as s:
            claims.lease_device(s, held, "cpu-0")


class TestArtifacts:
    def test_a_job_has_one_artifact(self, world: World) -> None:
        job_id = world.submit()
        words: dict[str, Any] = {"project_id": world.project_id, "job_id": job_id, "name": "router", "manifest": "{}"}
        with unit_of_work() as s:
            first = artifacts.create(s, digest="sha256:1", files={"spec.json": {"digest": "sha256:2", "size_bytes": 3}}, **words)
            second = artifacts.create(s, digest="sha256:9", files={}, **words)
        assert (first.id, first.size_bytes) == (second.id, 3)
        assert second.digest == "sha256:1"


class TestProjects:
    def test_name_is_taken_once(self, world: World) -> None:
        with pytest.raises(Conflict), unit_of_work() as s:
            projects.create(s, "support")


class TestStoreId:
    @pytest.fixture(params=["folder", "bucket"])
    def new(self, request: pytest.FixtureRequest, tmp_path: Any) -> BlobStore:
        """A store that nobody has used."""
        if request.param == "folder":
            return FolderStore(tmp_path / "new")
        server: S3Server = request.getfixturevalue("s3")
        return server.store(server.settings(), tmp_path / "cache")

    def test_store_of_another_database_is_refused(self, world: World, new: BlobStore) -> None:
        new.claim_for("store-of-somebody-else")
        with unit_of_work() as s:
            blobs.check_store(s, world.store)
            blobs.check_store(s, world.store)
            with pytest.raises(StorageError, match="belongs to the database store-of-somebody-else"):
                blobs.check_store(s, new)

    def test_store_without_the_databases_blobs_is_refused(self, world: World, new: BlobStore) -> None:
        """A folder that was not mounted, or a bucket of the wrong name, is not taken for a new one."""
        with unit_of_work() as s, pytest.raises(StorageError, match=r"does not hold what the database .* points at"):
            blobs.check_store(s, new)
        assert new.owner() is None


def _trace(world: World, digest: str, inputs: dict[str, Any], status: str = "ok") -> traces.NewTrace:
    body = {
        "status": status,
        "inputs": inputs,
        "outputs": {},
        "calls": [],
        "usage": {"calls": 1, "prompt_tokens": 5, "completion_tokens": 2},
        "seconds": 0.1,
    }
    return traces.NewTrace(world.project_id, digest, "v1:program", "v1:lms", "v1:inputs", "v1:prompts", 0, body)


def _score(world: World, trace: str, score: dict[str, Any]) -> scores.NewScore:
    return scores.NewScore(world.project_id, trace, "m", "e", score)


def _model(world: World) -> str:
    job_id, house = world.submit(), connection("house").id
    with unit_of_work() as s:
        key = service.NewFineTuneJob("v1:key", "", ("student",), ("self",), house, "tiny", "local")
        [row] = service.create_fine_tune_jobs(s, repository.by_id(s, job_id), [key])
        return fine_tuned.create(
            s, model_id="sh-router-self-abcdefgh", project_id=world.project_id, job_id=job_id, fine_tune_job_id=row.id, connection_id=house,
            program_name="router", predictors=["self"], base_model="tiny", base_model_digest=None, files={}, settings={},
        ).id  # fmt: skip
