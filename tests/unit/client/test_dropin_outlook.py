"""The line that the drop-in prints before anything is paid for."""

from __future__ import annotations

from typing import Any

import dspy
import httpx
import pytest

import stillhouse
from tests.unit.client.dropin_server import Classify, Server, asked_for, desk, example

ESTIMATE: dict[str, Any] = {
    "rows": {"train": 640, "holdout": 50},
    "total_usd": 0.123,
    "seconds": 361.0,
    "training": {"fine_tuning_jobs": 1, "reused": 1},
    "roles": [{"role": "teacher:0", "examples": 640, "stored": 600, "rollouts": 40}, {"role": "baseline", "examples": 50, "stored": 0}],
}
HERE = "the program and your metric run here, in this process: keep it open, or send your code with ship_code=True"


def line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[0]


def test_it_comes_before_the_job_is_made(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.estimate, told = ESTIMATE, []

    def watched(request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("POST", "/v1/compile_jobs"):
            told.append(capsys.readouterr().err)
        return server(request)

    with stillhouse.Stillhouse("http://server", "sh_a_b", transport=httpx.MockTransport(watched)) as client:
        asked_for(server, client)
    known = "2 predictors → 2 LoRA; 640 of 690 examples, 600 already run; 50 held out; about $0.12, 6 min; "
    assert told == [f"{known}taught by openai/big; {HERE}\n"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"total_usd": 0.0, "seconds": 0.0}, "; about $0.00, 0 s; "),
        ({"total_usd": 0.0004, "seconds": 59.0}, "; less than $0.01, 59 s; "),
        ({"total_usd": 12.5, "seconds": 5400.0}, "; about $12.50, 1.5 h; "),
        ({"total_usd": None, "unknown": ["price of openai/big"]}, "; price unknown (price of openai/big), 6 min; "),
        (
            {"total_usd": None, "seconds": None, "unknown": ["time of baseline", "tokens of teacher:0: not run", "price of training"]},
            "; price unknown (tokens of teacher:0; price of training), time unknown; ",
        ),
        (
            {
                "total_usd": None,
                "unknown": ["price of a/1", "tokens of baseline: not run", "price of a/2", "tokens of teacher: not run", "price of a/3"],
            },
            "; price unknown (price of a/1 and 2 more; tokens of baseline and teacher), 6 min; ",
        ),
        ({"rows": {"train": 1}, "roles": []}, "; 1 example, 0 already run; none held out; "),
        ({"roles": [{"role": "teacher:0", "stored": 600}, {"role": "teacher:1", "stored": 20}]}, "; 640 of 690 examples, 20 already run; "),
    ],
)
def test_what_is_told(
    server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str], found: dict[str, Any], told: str
) -> None:
    server.estimate = {**ESTIMATE, **found}
    asked_for(server, client)
    assert told in line(capsys)


def test_rows_that_are_held_out_of_the_trainset_are_told(
    server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]
) -> None:
    server.estimate = {**ESTIMATE, "rows": {"train": 5, "holdout": 1}, "roles": []}
    examples = [example(number) for number in range(6)]
    for valset, told in ((None, "5 of 6 examples"), ([example(7)], "5 examples")):
        with pytest.raises(stillhouse.StillhouseError, match="is failed"):
            stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), examples, valset=valset)
        assert f"; {told}, 0 already run; 1 held out; " in line(capsys)


def test_a_server_that_gives_no_estimate_keeps_nobody_waiting(
    server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]
) -> None:
    server.estimate = None
    asked_for(server, client)
    assert line(capsys) == f"2 predictors; 6 examples; cost and time unknown: the server gave no estimate; taught by openai/big; {HERE}"


def test_where_it_runs_is_told(server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]) -> None:
    server.estimate = ESTIMATE
    asked_for(server, client, metric="exact_match")
    assert line(capsys).endswith(
        "6 min; taught by openai/big; the program runs here, in this process: keep it open, or send your code with ship_code=True"
    )
    straight = dspy.Predict(Classify)
    straight.set_lm(dspy.LM("house/tiny"))
    with pytest.raises(stillhouse.StillhouseError, match="is failed"):
        stillhouse.BootstrapFinetune(metric="exact_match", client=client).compile(straight, [example(0)])
    assert line(capsys).endswith("6 min; taught by house/tiny; the program runs on the server")


def test_a_job_that_is_there_is_told_in_its_place(
    server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]
) -> None:
    server.estimate, server.jobs = ESTIMATE, [{"id": "cjob-9", "status": "paused", "created_at": 1}]
    with pytest.raises(stillhouse.StillhouseError, match="is failed"):
        stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), [example(0)])
    assert line(capsys) == f"cjob-1 is failed: this call goes on with it; {HERE}"
    assert not server.bodies("POST /v1/compile_jobs/estimate")
