"""The agent beside an LM host: what is wanted gets loaded, tried, loaded again, and given up on in the end."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from distill.catalog import connections, devices, fine_tuned
from distill.catalog.models import Placement
from distill.db import unit_of_work
from distill.execute import train
from distill.execute.lm_host import CannotSleep, HostRefused, HostUnreachable, LmHostClient
from distill.execute.placements import MOST_ATTEMPTS, Agent
from distill.jobs import events, repository, trained
from distill.jobs.models import Job
from distill.settings import get_settings
from distill.trainers.base import TrainCallbacks, Training, TrainRequest
from tests.integration.execute.house import House, PretendTrainer, at_work, rows
from tests.support.scripted_lm import ScriptedLM
from tests.support.server_process import wait_until


def with_models(job: Job) -> dict[str, Placement]:
    with unit_of_work() as s:
        return fine_tuned.of_models(s, [model.id for model in trained.models_of(s, job.id)])


def placements(job: Job) -> dict[str, str]:
    return {model: row.status for model, row in with_models(job).items()}


def is_waiting(house: House) -> bool:
    assert house.house is not None
    with unit_of_work() as s:
        return connections.by_id(s, house.house.id).waiting_since is not None


class TestLoading:
    def test_every_model_of_a_job_is_loaded_from_its_own_files(self, house: House) -> None:
        job = house.compile(rows(6), multitask=False)
        house.agent.tick()
        assert set(placements(job).values()) == {"ready"}
        folders = {(folder / "adapter_model.safetensors").read_text() for folder in house.host.loaded.values()}
        assert len(folders) == 2

    def test_agents_that_fetch_the_same_files_at_once_do_not_meet(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("distill.execute.placements.MOST_ATTEMPTS", 9)  # each of them counts as one
        house.compile(rows(6))
        assert house.house is not None
        host = cast("LmHostClient", house.host)
        # Ten times: whether two of them are inside the same copy is up to the threads.
        for n in range(10):
            house.host.loaded.clear()
            agents = [Agent(house.house, host, house.store, house.folder / f"shared-{n}", f"agent-{i}") for i in range(8)]
            with ThreadPoolExecutor(len(agents)) as pool:
                list(pool.map(Agent.tick, agents))
        (folder,) = house.host.loaded.values()
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]

    def test_a_restarted_host_gets_its_models_back(self, house: House) -> None:
        house.compile(rows(6))
        house.agent.tick()
        before = dict(house.host.loaded)
        house.host.loaded.clear()
        house.agent.tick()
        assert house.host.loaded == before

    def test_a_copy_that_a_power_cut_has_damaged_is_made_anew(self, house: House) -> None:
        """Of the right size, and of zeros."""
        house.compile(rows(6))
        house.agent.tick()
        (folder,) = house.host.loaded.values()
        place = folder / "adapter_model.safetensors"
        good = place.read_bytes()
        place.write_bytes(bytes(len(good)))
        house.host.loaded.clear()
        house.agent.tick()
        assert place.read_bytes() == good

    def test_a_deleted_model_is_unloaded(self, house: House) -> None:
        job = house.compile(rows(6))
        house.agent.tick()
        (model,) = placements(job)
        with unit_of_work() as s:
            fine_tuned.delete(s, house.project_id, model)
        house.agent.tick()
        assert house.host.loaded == {}
        assert placements(job) == {model: "gone"}

    def test_a_model_that_is_deleted_while_it_is_loaded_is_unloaded_again(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        job = house.compile(rows(6))
        house.host.loaded.clear()
        load = house.host.load

        def load_late(name: str, folder: Path) -> None:
            load(name, folder)
            with unit_of_work() as s:
                fine_tuned.delete(s, house.project_id, name)

        monkeypatch.setattr(house.host, "load", load_late)
        house.agent.tick()
        (model,) = placements(job)
        assert placements(job) == {model: "unwanted"}
        house.agent.tick()
        assert house.host.loaded == {}
        assert placements(job) == {model: "gone"}

    def test_a_model_that_is_wanted_again_while_it_is_unloaded_is_loaded_again(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        job = house.compile(rows(6))
        house.agent.tick()
        (model,) = placements(job)
        unload = house.host.unload

        def unload_late(name: str) -> None:
            unload(name)
            with unit_of_work() as s:
                fine_tuned.want(s, name, str(house.house and house.house.id))

        monkeypatch.setattr(house.host, "unload", unload_late)
        with unit_of_work() as s:
            fine_tuned.set_placement(s, with_models(job)[model].id, "unwanted")
        house.agent.tick()
        house.agent.tick()
        assert set(house.host.loaded) == {model}
        assert placements(job) == {model: "ready"}

    def test_a_model_that_answers_as_its_base_does_is_warned_about(self, house: House) -> None:
        house.host.deaf = True
        job = house.compile(rows(6), valset=rows(12)[6:])
        assert [warning["code"].partition(":")[0] for warning in job.warnings] == ["no_difference"]

    def test_a_host_that_knows_the_base_model_by_another_name_still_serves(self, house: House) -> None:
        answer = house.host.answer

        def only_tuned(model: str, messages: list[dict[str, Any]], max_tokens: int) -> str:
            if not model.startswith("sh-"):
                raise HostRefused(404, f"no model {model}")
            return answer(model, messages, max_tokens)

        house.host.answer = only_tuned  # type: ignore[method-assign]
        job = house.compile(rows(6), valset=rows(12)[6:])
        assert job.status == "succeeded"
        assert "could not be compared with its base model" in job.warnings[0]["message"]

    def test_a_model_that_never_loads_fails_its_job(self, house: House) -> None:
        tries: list[str] = []

        def refuse(name: str, folder: Path) -> None:
            tries.append(name)
            raise HostRefused(400, "rank 16 is too large")

        house.host.load = refuse  # type: ignore[method-assign]
        job = house.compile(rows(6), valset=rows(12)[6:])
        assert job.status == "failed"
        assert job.error is not None
        assert job.error["code"] == "model_not_loaded"
        assert "rank 16 is too large" in job.error["message"]
        assert len(tries) == MOST_ATTEMPTS

    def test_a_model_that_ends_its_host_whenever_it_is_loaded_is_given_up(self, house: House) -> None:
        job = house.compile(rows(6))
        house.agent.tick()

        def dies(name: str, folder: Path) -> None:
            raise HostUnreachable("POST /v1/load_lora_adapter: Remote end closed connection without response")

        house.host.loaded.clear()
        house.host.load = dies  # type: ignore[method-assign]
        for _ in range(MOST_ATTEMPTS):
            with pytest.raises(HostUnreachable):
                house.agent.tick()
        house.agent.tick()
        (placement,) = with_models(job).values()
        assert placement.status == "failed"
        assert placement.error == "its LM host, or the agent beside it, ended 5 times while it was loaded"


class TestHandOver:
    def test_a_host_that_starts_again_while_a_trainer_has_the_device_is_put_to_sleep(self, house: House) -> None:
        job = house.compile(rows(6), valset=rows(12)[6:])
        share_device(house, "cpu-7")
        lease(job, "cpu-7")
        house.agent.tick()
        house.host.wake_up()
        house.agent.tick()
        assert house.host.is_sleeping()
        assert is_waiting(house)

    def test_the_host_sleeps_while_a_trainer_has_the_device_and_then_comes_back_with_its_models(self, house: House) -> None:
        job = house.compile(rows(6), valset=rows(12)[6:])
        loaded = dict(house.host.loaded)
        share_device(house, "cpu-7")
        item = lease(job, "cpu-7")

        house.agent.tick()
        assert house.host.is_sleeping()
        assert is_waiting(house)
        with unit_of_work() as s:
            assert devices.state(s, "cpu-7").granted
            devices.release(s, item)

        house.agent.tick()
        assert not house.host.is_sleeping()
        assert house.host.loaded == loaded
        assert not is_waiting(house)

    def test_a_host_that_cannot_sleep_is_trained_beside_and_goes_on_serving(self, house: House) -> None:
        job = house.compile(rows(6), valset=rows(12)[6:])
        loaded = dict(house.host.loaded)
        share_device(house, "cpu-7")
        house.host.sleep = cannot_sleep  # type: ignore[method-assign]
        lease(job, "cpu-7")
        house.agent.tick()
        with unit_of_work() as s:
            assert devices.state(s, "cpu-7").granted
            assert devices.has_agent(s, "cpu-7")
        assert house.host.loaded == loaded
        assert not is_waiting(house)

    def test_an_agent_whose_host_does_not_obey_is_not_taken_for_one_at_work(self, house: House) -> None:
        job = house.compile(rows(6), valset=rows(12)[6:])
        share_device(house, "cpu-7")
        house.host.sleep = is_unreachable  # type: ignore[method-assign]
        lease(job, "cpu-7")
        with pytest.raises(HostUnreachable):
            house.agent.tick()
        with unit_of_work() as s:
            assert not devices.has_agent(s, "cpu-7")


class TestWaiting:
    """A train item waits for its device, but not for ever."""

    @pytest.fixture
    def shared(self, database: str, tmp_path: Path, teacher: ScriptedLM, student: ScriptedLM) -> Iterator[House]:
        with House(tmp_path, teacher, student, device="cpu-7") as house:
            yield house

    def test_for_an_agent_that_is_not_there(self, shared: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "AGENT_SECONDS", 0.0)
        assert "Nobody hands cpu-7 over" in first_trouble(shared, shared.submit(rows(6)))

    def test_for_a_host_that_never_frees_the_device(self, shared: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train, "HAND_OVER_SECONDS", 0.5)
        shared.agent.tick()
        assert "The LM host has not freed cpu-7" in first_trouble(shared, shared.submit(rows(6)))

    @pytest.mark.parametrize("free", [0, 1])
    def test_by_default_it_waits_only_where_the_memory_is_too_small_for_both(
        self, shared: House, monkeypatch: pytest.MonkeyPatch, free: int
    ) -> None:
        """The host serves on beside a training that fits, and is asked to let go for one that does not."""
        monkeypatch.setattr(train, "HAND_OVER_SECONDS", 0.5)
        with unit_of_work() as s:
            devices.configure(s, "cpu-7", "auto")
        trainer = PretendTrainer(free=free)
        shared.ports = replace(shared.ports, trainers={"local": trainer})
        shared.agent.tick()
        job_id = shared.submit(rows(6))
        if free:
            assert shared.run(job_id).status == "succeeded"
            assert not is_waiting(shared)
        else:
            assert "The LM host has not freed cpu-7" in first_trouble(shared, job_id)
            assert trainer.jobs == []

    def test_once_it_has_the_device_it_says_no_more_that_it_waits(self, shared: House, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trainer says nothing itself while it loads torch and the base model."""
        monkeypatch.setenv("STILLHOUSE_TIMERS__BEAT_SECONDS", "0.1")
        get_settings.cache_clear()
        with unit_of_work() as s:
            devices.configure(s, "cpu-7", "share")
        trainer = LoadsLong()
        shared.ports = replace(shared.ports, trainers={"local": trainer})
        job_id = shared.submit(rows(6))
        with at_work(shared):
            trainer.started.wait(60)
            try:
                wait_until(lambda: progress_of(job_id) == "Loading the base model", "it does not say that it loads", 10)
            finally:
                trainer.loaded.set()
            wait_until(lambda: shared.job(job_id).status == "succeeded", "it did not go on")


class LoadsLong(PretendTrainer):
    """Has no progress to tell until it is `loaded`."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.loaded = threading.Event(), threading.Event()

    def start(self, request: TrainRequest, callbacks: TrainCallbacks) -> Training:
        self.started.set()
        training = super().start(request, callbacks)
        over = training.wait
        training.wait = lambda timeout=None: over(timeout) if self.loaded.wait(timeout) else None  # type: ignore[method-assign]
        return training


def progress_of(job_id: str) -> str:
    """What the job's training says of where it stands."""
    with unit_of_work() as s:
        return str((repository.items(s, job_id, "train")[0].progress or {}).get("message"))


def first_trouble(house: House, job_id: str) -> str:
    """What the job says before it tries its training again."""

    def told() -> list[str]:
        with unit_of_work() as s:
            return [event.message for event in events.after(s, job_id, 0) if event.message.startswith("Will try again")]

    house.run(job_id, until=lambda job: bool(told()))
    return told()[0]


def share_device(house: House, device: str) -> None:
    """From now on the house's LM host is on this device."""
    with unit_of_work() as s:
        assert house.house is not None
        connections.by_id(s, house.house.id).device = device
        devices.configure(s, device, "pause")
    house.house.device = device


def cannot_sleep() -> None:
    raise CannotSleep("POST /sleep: 404")


def is_unreachable() -> None:
    raise HostUnreachable("POST /sleep: connection refused")


def lease(job: Job, device: str) -> int:
    """As a train item does it."""
    with unit_of_work() as s:
        item = repository.items(s, job.id, "train")[0].id
        state = devices.acquire(s, device, item, 60)
        assert state is not None
        assert not state.granted
    return item
