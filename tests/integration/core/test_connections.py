"""Connections as the settings file says them: revisions, the embedded house, processes that start together."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text

from distill.catalog import connections, devices
from distill.db import unit_of_work
from distill.settings import ConnectionSettings, DeviceSettings
from tests.integration.core.world import World, connection, execute, settings


class TestConnections:
    def test_embedded_host_is_the_house(self, world: World) -> None:
        with unit_of_work() as s:
            house = connections.default(s, "student")
        assert house is not None
        assert (house.name, house.trainer, house.device, house.models) == ("house", "local", "cpu-0", ["smollm2-135m-instruct"])

    def test_another_address_is_another_revision(self, world: World) -> None:
        before = connection("teachers")
        with unit_of_work() as s:
            connections.sync(s, settings(connections={"teachers": ConnectionSettings(base_url="http://moved.test", models=["big"])}))
        assert connection("teachers").revision == before.revision + 1

    def test_embedded_host_on_another_port_answers_the_same(self, world: World) -> None:
        before = connection("house")
        with unit_of_work() as s:
            connections.sync(s, settings(lmhost_url="http://house.test:9/v1"))
        after = connection("house")
        assert (after.revision, after.base_url) == (before.revision, "http://house.test:9/v1")

    def test_a_house_of_the_operators_own_that_moves_is_another_revision(self, world: World) -> None:
        for host in ("one", "two"):
            with unit_of_work() as s:
                connections.sync(s, settings(connections={"house": ConnectionSettings(base_url=f"http://{host}.test", models=["small"])}))
            if host == "one":
                before = connection("house")
        assert connection("house").revision == before.revision + 1

    def test_processes_that_start_together_make_each_connection_once(self, world: World) -> None:
        """API, workers and agents all sync at their start; on a new database none of them finds a row to lock."""
        execute("DELETE FROM connections")

        def start() -> None:
            with unit_of_work() as s:
                connections.sync(s, settings())

        with ThreadPoolExecutor(1) as pool:
            with unit_of_work() as s:
                connections.sync(s, settings())
                second = pool.submit(start)
                pause = threading.Event()
                while not somebody_waits() and not second.done():
                    pause.wait(0.01)
            second.result()
        assert connection("teachers").revision == 1

    def test_one_that_moves_off_its_device_does_not_wait_for_it(self, world: World) -> None:
        """Its agent looks after the new device, and nobody would end the wait."""
        execute("UPDATE connections SET waiting_since = clock_timestamp() WHERE name = 'house'")
        for device, waits in (("cpu-0", True), (None, False)):
            house = ConnectionSettings(base_url="http://house.test/v1", models=["small"], device=device, trainer="local")
            with unit_of_work() as s:
                connections.sync(s, settings(connections={"house": house}))
            assert (connection("house").waiting_since is not None) == waits

    def test_removed_connection_is_disabled_and_can_come_back(self, world: World) -> None:
        with unit_of_work() as s:
            connections.sync(s, settings(connections={}))
            assert connections.find(s, "teachers") is None
            connections.sync(s, settings())
            assert connections.find(s, "teachers") is not None


def somebody_waits() -> bool:
    with unit_of_work() as s:
        return bool(s.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


class TestDevices:
    def on_train(self, device: str = "cpu-0") -> str:
        with unit_of_work() as s:
            return devices.state(s, device).on_train

    def sync(self, *, disable_others: bool = True, **tables: str) -> None:
        with unit_of_work() as s:
            named = {device.replace("_", "-"): DeviceSettings.model_validate({"on_train": word}) for device, word in tables.items()}
            connections.sync(s, settings(devices=named), disable_others=disable_others)

    def test_the_memory_decides_unless_the_settings_do(self, world: World) -> None:
        self.sync()
        assert self.on_train() == "auto"
        for word in ("share", "pause"):
            self.sync(cpu_0=word)
            assert self.on_train() == word
        self.sync()
        assert self.on_train() == "auto"

    def test_a_worker_without_the_file_leaves_it(self, world: World) -> None:
        self.sync(cpu_0="share")
        self.sync(disable_others=False)
        assert self.on_train() == "share"
