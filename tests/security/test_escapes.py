"""What a program may try in its sandbox, on both rungs, for a worker that is root and for one that is not, and in a container: each is
blocked.

The same is tried without a sandbox, where it has to succeed: an attack that fails anyway shows nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.security.whom import as_user, users, users_of_containers

ROOT = Path(__file__).parents[2]
RUNGS = ("bubblewrap", "landlock")
PLACES = (*((rung, user) for rung in RUNGS for user in users()), *(("landlock", user) for user in users_of_containers()))
LOCKED = [pytest.param(rung, user, id=f"{rung}-{user}") for rung, user in PLACES]
SECRET, PASSWORD = "sk-of-the-worker", "db:5432:*:stillhouse:secret"
WAYS = (
    *("tcp", "udp", "dns", "abstract_socket", "database_socket"),
    *("private_files", "environments", "other_runner", "write_outside", "change_outside", "signal"),
)
EXEMPT = {
    "ptrace",
    "mount",
    "setns",
    "bpf",
    "open_by_handle_at",
    "perf_event_open",
    "io_uring_setup",
    "kexec_load",
    "newer than the filter",
}
"""Calls that need arguments or powers that the attacker has not: without a sandbox they fail too, for another reason."""


@cache
def tried(rung: str, user: str) -> dict[str, Any]:
    """What came of all attacks, in one process for each rung and user."""
    attacks = WEAKENED[rung.partition("+")[2]].values() if "+" in rung else ()
    return json.loads(said_by(user, [sys.executable, "-m", "tests.security.locked", rung, *attacks]))  # type: ignore[no-any-return]


def said_by(user: str, command: list[str]) -> str:
    """With a home that everybody may read."""
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        Path(home, ".pgpass").write_text(PASSWORD)
        environment = {**os.environ, "HOME": home, "LM_KEY": SECRET}
        done = subprocess.run(as_user(user, command), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("rung", "user"), LOCKED)
class TestBlocked:
    @pytest.mark.parametrize("way", WAYS)
    def test_no_way_leads_out(self, rung: str, user: str, way: str) -> None:
        assert way not in tried(rung, user)["ways"]

    def test_a_fork_bomb_ends_at_the_limit(self, rung: str, user: str) -> None:
        assert tried(rung, user)["forks"] <= 64

    def test_memory_ends_at_the_limit(self, rung: str, user: str) -> None:
        assert tried(rung, user)["allocates"] is False

    def test_one_file_ends_at_the_limit(self, rung: str, user: str) -> None:
        assert tried(rung, user)["one_file"] == 4

    def test_many_files_end_at_the_limit_or_are_seen(self, rung: str, user: str) -> None:
        """In memory they fill the home; /tmp and /dev/shm take all 40 each. On the disk the pool of runners ends who wrote them."""
        found = tried(rung, user)["many_files"]
        assert found["written"] <= 8 + 40 + 40 if rung.startswith("bubblewrap") else found["is_seen"]

    def test_removed_files_that_stay_open_are_bounded_or_seen(self, rung: str, user: str) -> None:
        found = tried(rung, user)["removed"]
        assert found["written"] <= 8 if rung.startswith("bubblewrap") else found["is_seen"]

    def test_nothing_is_left_that_is_no_file(self, rung: str, user: str) -> None:
        assert tried(rung, user)["planted"] == []

    def test_the_next_runner_finds_nothing_of_it(self, rung: str, user: str) -> None:
        assert tried(rung, user)["next"]["left"] != []
        assert tried(rung, user)["next"]["found"] == []

    def test_no_child_outlives_it(self, rung: str, user: str) -> None:
        assert tried(rung, user)["outlives"] is False

    def test_calls_into_the_kernel_are_refused(self, rung: str, user: str) -> None:
        answers = dict(tried(rung, user)["calls"])
        assert (answers.pop("io_uring_setup"), answers.pop("newer than the filter")) == ("ENOSYS", "ENOSYS")
        assert set(answers.values()) == {"EPERM"}

    def test_no_socket_is_made_that_leads_anywhere(self, rung: str, user: str) -> None:
        assert tried(rung, user)["sockets"] == ["pair of streams"]

    def test_it_has_no_powers_and_gets_none(self, rung: str, user: str) -> None:
        status = tried(rung, user)["status"]
        assert "0" not in status["Uid"].split()
        assert [status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [""] * 4
        assert (status["NoNewPrivs"], status["Seccomp"], status["groups"]) == ("1", "2", "[]")

    def test_no_other_process_is_reached(self, rung: str, user: str) -> None:
        assert tried(rung, user)["others"] == []

    def test_the_first_process_keeps_its_environment(self, rung: str, user: str) -> None:
        """Inside bubblewrap it is one that knows no more than the program."""
        told = [line.partition("=")[0] for line in tried(rung, user)["reads"].get("/proc/1/environ", "").split("\0")]
        own = ["PATH", "LANG", "HOME", "TMPDIR", "USER", "LOGNAME", ""]
        assert told == (own if (rung, user) == ("bubblewrap", "user") else [""])

    def test_the_home_of_the_worker_is_not_read(self, rung: str, user: str) -> None:
        assert PASSWORD not in tried(rung, user)["reads"].values()

    def test_a_runner_starts(self, rung: str, user: str) -> None:
        assert "dspy" in tried(rung, user)["runner"]

    def test_what_programs_need_works(self, rung: str, user: str) -> None:
        assert tried(rung, user)["works"] == ["thread", "process", "file", "copy", "signal to a child", "clock", "random"]


WEAKENED: dict[str, dict[str, str]] = {
    "walls,owner": {
        "test_no_way_leads_out private_files, environments, other_runner, write_outside, signal": "ways",
        "test_the_home_of_the_worker_is_not_read": "reads",
        "test_the_first_process_keeps_its_environment": "reads",
    },
    "filter": {"test_no_socket_is_made_that_leads_anywhere": "sockets", "test_calls_into_the_kernel_are_refused": "calls"},
    "walls,owner,filter": {
        "test_no_way_leads_out tcp, udp, dns, abstract_socket, database_socket, change_outside": "ways",
        "test_nothing_is_left_that_is_no_file": "planted",
        "test_the_next_runner_finds_nothing_of_it": "next",
        "test_no_other_process_is_reached": "others",
    },
    "limits": {
        "test_a_fork_bomb_ends_at_the_limit": "forks",
        "test_memory_ends_at_the_limit": "allocates",
        "test_one_file_ends_at_the_limit": "one_file",
    },
    "room": {
        "test_many_files_end_at_the_limit_or_are_seen": "many_files",
        "test_removed_files_that_stay_open_are_bounded_or_seen": "removed",
    },
    "walls,guard": {"test_no_child_outlives_it": "outlives"},
    "inside": {"test_it_has_no_powers_and_gets_none": "status"},
}
"""Tests of `TestBlocked`, with their ways, that fail when these parts of a rung are missing, and the attacks of each."""
LACKING = [
    pytest.param(rung, user, without, id=f"{rung}-{user}-without-{without}")
    for rung, user in PLACES
    for without in (WEAKENED if user in users() else ["walls,owner"])
]
WORK = {"test_a_runner_starts", "test_what_programs_need_works"}


class TestTheSuiteItself:
    def test_each_of_its_tests_can_fail(self) -> None:
        failing = {test.partition(" ")[0] for tests in WEAKENED.values() for test in tests}
        assert failing == {name for name in vars(TestBlocked) if name.startswith("test_")} - WORK
        ways = [way for tests in WEAKENED.values() for test in tests for way in test.partition(" ")[2].split(", ") if way]
        assert sorted(ways) == sorted(WAYS)

    @pytest.mark.slow
    @pytest.mark.parametrize(("rung", "user", "without"), LACKING)
    def test_it_notices_what_a_rung_lacks(self, rung: str, user: str, without: str) -> None:
        for test in WEAKENED[without]:
            name, _, ways = test.partition(" ")
            for arguments in [{"way": way} for way in ways.split(", ")] if ways else [{}]:
                if name == "test_the_first_process_keeps_its_environment" and user in users():
                    continue  # it is the machine's own, and not of these tests
                with pytest.raises(AssertionError):
                    getattr(TestBlocked(), name)(rung=f"{rung}+{without}", user=user, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("user", users())
class TestFilesInSight:
    """On the other rung a program has its own alone, in memory, and may do with them what it likes."""

    def test_modes_owners_times_and_attributes_stay(self, user: str) -> None:
        assert tried("landlock", user)["changes"] == []


@pytest.mark.slow
@pytest.mark.parametrize("user", users())
@pytest.mark.parametrize("version", [3, 5])
class TestOlderKernel:
    def test_holds_and_an_ordinary_user_pays_with_signals_to_children(self, user: str, version: int) -> None:
        found = json.loads(said_by(user, [sys.executable, "-m", "tests.security.locked", f"landlock-{version}", "ways", "others", "works"]))
        assert (found["ways"], found["others"]) == ([], [])
        lost = set() if user == "root" else {"signal to a child"}
        assert set(found["works"]) == {"thread", "process", "file", "copy", "signal to a child", "clock", "random"} - lost


@pytest.mark.slow
@pytest.mark.parametrize("user", users_of_containers())
class TestInAContainer:
    """As Docker starts one by default, which is what the compose file asks for."""

    def test_without_a_sandbox_every_way_leads_out(self, user: str) -> None:
        found = json.loads(said_by(user, [sys.executable, "-m", "tests.security.locked", "none", "ways", "others", "reads"]))
        assert sorted(found["ways"]) == sorted(WAYS)
        assert {"signal", "limits", "priority"} <= set(found["others"])
        assert SECRET in found["reads"]["/proc/1/environ"]

    def test_there_are_no_namespaces(self, user: str) -> None:
        ways = json.loads(said_by(user, [sys.executable, "-m", "tests.security.locked", "bubblewrap", "ways"]))["ways"]
        assert "namespace" in ways

    def test_the_doctor_says_that_landlock_holds(self, user: str, tmp_path: Path) -> None:
        look = "from distill.settings import Settings; from stack.machine_checks import sandbox; print(sandbox(Settings()))"
        said = said_by(user, [sys.executable, "-c", look])
        assert "landlock holds" in said


@pytest.mark.slow
@pytest.mark.parametrize("user", users())
class TestWithoutASandbox:
    def test_every_way_leads_out(self, user: str) -> None:
        assert sorted(tried("none", user)["ways"]) == sorted(WAYS)

    def test_nothing_has_a_limit(self, user: str) -> None:
        found = tried("none", user)
        assert (found["forks"], found["allocates"], found["one_file"], found["many_files"]["written"]) == (100, True, 16, 40)

    def test_everything_is_left_behind(self, user: str) -> None:
        devices = ["device"] if user == "root" else []
        assert tried("none", user)["planted"] == ["symlink", "fifo", "socket", *devices]
        assert tried("none", user)["outlives"] is True
        found = tried("none", user)["next"]["found"]
        assert {"shared memory", "messages", "semaphores", "queue", "key", "file in /dev/shm", "pipe in /var/tmp"} <= set(found)

    def test_what_is_known_of_files_is_changed(self, user: str) -> None:
        assert len(tried("none", user)["changes"]) >= 10

    def test_calls_are_taken(self, user: str) -> None:
        answers = tried("none", user)["calls"]
        assert {name for name, answer in answers.items() if not answer} == answers.keys() - EXEMPT - {"newer than the filter"}

    def test_sockets_lead_everywhere(self, user: str) -> None:
        assert {"inet", "inet6", "unix", "netlink", "pair of datagrams"} <= set(tried("none", user)["sockets"])

    def test_the_home_of_the_worker_is_read(self, user: str) -> None:
        assert PASSWORD in tried("none", user)["reads"].values()

    def test_other_processes_are_reached(self, user: str) -> None:
        assert tried("none", user)["others"] == ["signal", "limits", "priority", "affinity", "memory", "root", "cwd", "files"]
