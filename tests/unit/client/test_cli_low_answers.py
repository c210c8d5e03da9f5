"""One low answer that `stillhouse jobs get` shows."""

from __future__ import annotations

from tests.unit.client.conftest import Shell, job, reply


class TestLowAnswer:
    def test_a_held_out_one_is_beside_its_label(self, shell: Shell) -> None:
        compiled = {"role": "compiled", "score": 0.0, "outputs": {"category": "junk"}}
        pair = {"row": 2, "change": "same", "data": {"message": "Hi", "category": "spam"}, "compiled": compiled, "against": {}}
        evaluation = {"n": 3, "compiled": {"score": 0.41, "low": 0.3, "high": 0.5, "parse_failures": 0}}
        shell.answers(reply(job("succeeded", evaluation=evaluation)), reply({"data": [pair], "has_more": False}))
        assert "Held-out row 2: category is 'junk', its label 'spam' (score 0)." in shell.run("jobs", "get", "cjob-1").stdout

    def test_one_of_a_job_that_failed_is_beside_its_label(self, shell: Shell) -> None:
        error = {"code": "no_rows_kept", "message": "No rows.", "category": "user", "data": {}}
        trace = {"id": "trace-1", "status": "ok", "row": 2, "outputs": {"category": "junk"}, "score": {"value": 0.0, "passed": False}}
        row = {"row": 2, "data": {"message": "Hi", "category": "spam"}}
        shell.answers(
            reply(job("failed", error=error, trainset="ds-1")),
            reply({"data": [trace], "has_more": False}),
            reply({"data": [row], "has_more": False}),
        )
        assert "Row 2: category is 'junk', its label 'spam' (score 0)." in shell.run("jobs", "get", "cjob-1").stdout
        assert shell.script.requests[2].url.path == "/v1/datasets/ds-1/rows"

    def test_no_input_is_shown_as_a_label(self, shell: Shell) -> None:
        """The program answers `team`, and hands its input on; the metric compares `team` with another column."""
        row, outputs = {"message": "Hi", "category": "spam"}, {"message": "Hi", "team": "junk"}
        pair = {"row": 2, "change": "same", "data": row, "compiled": {"role": "compiled", "score": 0.0, "outputs": outputs}, "against": {}}
        shell.answers(
            reply(job("succeeded", program="prog-1", evaluation={"compiled": {"score": 0.41}})),
            reply({"data": [pair], "has_more": False}),
            reply({"id": "prog-1", "inputs": ["message"]}),
        )
        said = "the answer is {'message': 'Hi', 'team': 'junk'}, the labels {'category': 'spam'} (score 0)."
        assert f"Held-out row 2: {said}" in shell.run("jobs", "get", "cjob-1").stdout

        error = {"code": "no_rows_kept", "message": "No rows.", "category": "user", "data": {}}
        trace = {"id": "trace-1", "status": "ok", "row": 2, "inputs": {"message": "Hi"}, "outputs": outputs, "score": {"value": 0.0}}
        shell.answers(
            reply(job("failed", error=error, trainset="ds-1")),
            reply({"data": [trace], "has_more": False}),
            reply({"data": [{"row": 2, "data": row}], "has_more": False}),
        )
        assert f"Row 2: {said}" in shell.run("jobs", "get", "cjob-1").stdout

    def test_a_job_that_failed_without_a_trainset_shows_none(self, shell: Shell) -> None:
        trace = {"id": "trace-1", "status": "ok", "row": 2, "outputs": {"category": "junk"}, "score": {"value": 0.0, "passed": False}}
        failed = job("failed", error={"code": "no_rows_kept", "message": "No rows.", "category": "user", "data": {}})
        shell.answers(reply(failed), reply({"data": [trace], "has_more": False}))
        shown = shell.run("jobs", "get", "cjob-1").stdout
        assert "No rows." in shown
        assert "junk" not in shown
