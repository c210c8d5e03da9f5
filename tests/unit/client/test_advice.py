"""What a failed job advises: Python where Python asked for it, commands on the command line, and the words of the API nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

import stillhouse
from stillhouse.dropin.optimizer import CompileFailed
from tests.unit.client.conftest import Shell, job, reply
from tests.unit.client.dropin_server import Server, desk, example

COUNTS = "Of the first 10 examples of the teacher 0 passed, at least 1 must: 10 scored below the bar. The job stopped before the others."
SMOKE = {"advice": 'Look at its rejections; `"smoke_test": null` goes on all the same.', "options": {"smoke_test": None}}
LOW = {"advice": "Ask for POST …/refilter of this job.", "refilter": {"filter": {"min_score": 0.8}}}
LONG = {"advice": "Ask for POST …/refilter of this job.", "refilter": {"train_options": {"max_seq_length": "auto"}}}
SPLIT = {"advice": 'Compile with "multitask": true.', "options": {"multitask": True}}
CHECK = {"advice": "Check the metric and the labels on the rejected traces."}
FAILED = "optimizer.failed_examples() gives the examples, each with what became of it."
AGAIN = "makes another job of its traces, with no teacher calls."
AGAIN_HERE = "makes another job of its traces, with no teacher calls; the same compile call then goes on with that job."
LISTED = "`stillhouse jobs rejections cjob-1` lists what became of the examples."


def failed_job(code: str, message: str, data: dict[str, Any]) -> dict[str, Any]:
    error = {"code": code, "message": f"{message} {data['advice']}", "category": "user", "data": data}
    return job("failed", error=error, rollouts={"where": "client"})


def failure(server: Server, client: stillhouse.Stillhouse, answer: dict[str, Any], traces: list[dict[str, Any]]) -> str:
    server.refuses = {"POST compile_jobs": reply(answer), "GET traces": reply({"data": traces, "has_more": False})}
    with pytest.raises(CompileFailed) as raised:
        stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), [example(number) for number in range(3)])
    return str(raised.value)


def trace(status: str, row: int, outputs: dict[str, Any] | None, score: float | None) -> dict[str, Any]:
    return {"id": f"trace-{row}", "status": status, "row": row, "outputs": outputs, "score": {"value": score, "passed": False}}


def test_the_drop_in_shows_one_prediction_beside_its_label(server: Server, client: stillhouse.Stillhouse) -> None:
    unread, low = trace("unparsable", 1, None, 0.0), trace("ok", 2, {"category": "junk", "answer": "x" * 500}, 0.25)
    told = failure(server, client, failed_job("smoke_test_failed", COUNTS, SMOKE), [unread, low])
    assert told == f"job cjob-1 is failed: {COUNTS} Row 2: category is 'junk', its label 'technical' (score 0.25). {FAILED}"


def test_the_drop_in_shows_an_answer_that_has_other_fields_than_its_labels(server: Server, client: stillhouse.Stillhouse) -> None:
    told = failure(server, client, failed_job("no_rows_kept", "0 rows.", LOW), [trace("ok", 1, {"team": "x" * 500}, 0.0)])
    assert f"Row 1: the answer is {{'team': '{'x' * 70}…, the labels {{'category': 'billing'}} (score 0)." in told


@pytest.mark.parametrize(
    ("data", "python", "commands"),
    [
        (SMOKE, FAILED, f"{LISTED} `smoke_test: null` in the job's file goes on all the same, and what was run is reused."),
        (
            LOW,
            f"{FAILED} stillhouse.Stillhouse().compile_jobs.refilter(\"cjob-1\", filter={{'min_score': 0.8}}) {AGAIN_HERE}",
            f"{LISTED} `stillhouse jobs refilter cjob-1 --min-score 0.8` {AGAIN}",
        ),
        (
            LONG,
            f"{FAILED} stillhouse.Stillhouse().compile_jobs.refilter(\"cjob-1\", train_options={{'max_seq_length': 'auto'}}) {AGAIN_HERE}",
            f'{LISTED} `stillhouse jobs refilter cjob-1 -f FILE` with `train_options: {{"max_seq_length": "auto"}}` in the file {AGAIN}',
        ),
        (
            SPLIT,
            f"{FAILED} With multitask=True predictors of one LM share their rows.",
            f"{LISTED} With `multitask: true` in the job's file predictors of one LM share their rows.",
        ),
        (CHECK, f"{CHECK['advice']} {FAILED}", f"{CHECK['advice']} {LISTED}"),
    ],
)
def test_each_interface_has_its_own_words(
    server: Server, client: stillhouse.Stillhouse, shell: Shell, data: dict[str, Any], python: str, commands: str
) -> None:
    answer = failed_job("no_rows_kept", "0 rows.", data)
    assert failure(server, client, answer, []) == f"job cjob-1 is failed: 0 rows. {python}"
    shell.answers(reply(answer))
    assert f"no_rows_kept 0 rows. {commands}\n" in shell.run("jobs", "get", "cjob-1").stdout
