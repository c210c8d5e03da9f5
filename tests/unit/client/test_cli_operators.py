"""The command line of operators, and how it shows jobs that wait."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse.cli.output import Exit
from stillhouse.resources.projects import LimitParams
from tests.unit.client.conftest import Shell, job, reply


def test_operators_name_project_and_owner(shell: Shell) -> None:
    shell.answers(reply({"data": [job(project="beta")]}))
    assert "beta" in shell.run("jobs", "list", "--project", "*", "--created-by", "ana").output
    assert dict(shell.script.requests[0].url.params) == {"limit": "20", "project": "*", "created_by": "ana"}


def test_limits_of_a_project_are_changed_one_by_one(shell: Shell) -> None:
    limits = {"share": {"value": 2.5, "source": "api"}, "max_jobs": {"value": 20000, "source": "settings"}}
    shell.answers(reply({"id": "proj-1", "created_at": 0, "name": "vision", "limits": limits}))
    shown = shell.run("projects", "update", "vision", "--share", "2.5", "--max-jobs", "settings")
    assert shell.sent() == {"share": 2.5, "max_jobs": None}
    assert "20,000" in shown.output
    for wrong in ([], ["--max-threads", "many"]):
        assert shell.run("projects", "update", "vision", *wrong).exit_code == Exit.USAGE


def test_days_that_a_project_keeps_things_stand_apart_from_what_it_may_use(shell: Shell) -> None:
    limits = {
        "keep_traces_days": {"value": 90, "source": "settings"},
        "share": {"value": 2.5, "source": "api"},
        "keep_events_days": {"value": 0, "source": "default"},
    }
    shell.answers(reply({"id": "proj-1", "created_at": 0, "name": "vision", "limits": limits}))
    shown = [line.split() for line in shell.run("projects", "get", "vision").output.splitlines()]
    assert shown == [
        ["vision", "MAY", "USE", "SAID", "BY"],
        ["share", "2.5", "api"],
        ["vision", "KEEPS", "DAYS", "SAID", "BY"],
        ["keep_traces_days", "90", "settings"],
        ["keep_events_days", "for", "ever", "default"],
    ]


def test_each_limit_of_a_project_has_its_option(shell: Shell) -> None:
    shell.answers(reply({"id": "proj-1", "created_at": 0, "name": "vision"}))
    given = {name: number for number, name in enumerate(LimitParams.__annotations__, 1)}
    options = [word for name, number in given.items() for word in (f"--{name.replace('_', '-')}", str(number))]
    shell.run("projects", "update", "vision", *options)
    assert shell.sent() == given


def test_cancel_all_goes_on_until_none_is_left(shell: Shell) -> None:
    pages = [{"data": [{"id": f"cjob-{n}", "status": "cancelled"}], "has_more": n == 1} for n in (1, 2)]
    shell.answers(*map(reply, pages))
    assert shell.run("jobs", "cancel-all", "--created-by", "ana", "--json").output.count("cjob-") == 2
    assert shell.sent(1) == {"created_by": "ana"}
    assert shell.run("jobs", "cancel-all").exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        ({"position": 3, "resource": "trainer", "estimated_seconds": 700}, "waiting (3rd for the trainer, about 12 min)"),
        ({"position": 11, "resource": "device"}, "waiting (11th for the device)"),
        ({"position": 1}, "waiting"),
    ],
)
def test_list_and_get_say_what_a_job_waits_for(shell: Shell, queue: dict[str, Any], said: str) -> None:
    held = {"job": None, "since": 0}, {"job": "cjob-2", "name": "nightly", "owner": "ana", "since": 0}
    waiting = job(status="running", waiting=True, owner="ben", queue={"reason": "busy", "held_by": held, **queue})
    shell.answers(reply({"data": [waiting]}))
    listed = shell.run("jobs", "list").output
    assert said in listed
    assert "ben" in listed
    shell.answers(reply(waiting))
    shown = shell.run("jobs", "get", "cjob-1").output
    assert said in shown
    assert "a job of another project has it since" in shown
    assert "cjob-2 nightly, made by ana has it since" in shown
