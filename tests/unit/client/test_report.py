"""`stillhouse jobs report`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from stillhouse.cli.main import app
from tests.unit.client.conftest import job, reply, scripted

DELTA: dict[str, Any] = {"against": "incumbent", "value": 0.036, "low": 0.004, "high": 0.068, "verdict": "better"}
DELTA |= {"pairs": 300, "fixes": 14, "regressions": 1}
EVALUATION = {
    "data": [
        {
            "role": "compiled", "score": 0.843, "low": 0.797, "high": 0.882, "n": 299, "undecided": 1, "parse_failures": 1,
            "latency_seconds": {"median": 0.25}, "usage": {"prompt_tokens": 900, "completion_tokens": 30},
        },
        {"role": "incumbent", "score": 0.807, "low": 0.758, "high": 0.85, "parse_failures": 2},
    ],
    "n": 300, "metric": "exact_match(category)", "delta": DELTA,
    "references": {"tfidf": {"score": 0.85, "low": 0.8, "high": 0.89, "n": 300, "delta": {"verdict": "inconclusive"}}},
}  # fmt: skip
PAIR = {
    "row": 7, "change": "regression", "data": {"message": "a | b\n<script>", "category": "billing"},
    "compiled": {"role": "compiled", "status": "unparsable", "message": "no field"},
    "against": {"role": "incumbent", "status": "ok", "outputs": {"category": "billing"}},
}  # fmt: skip


def report(monkeypatch: pytest.MonkeyPatch, *answers: object, arguments: tuple[str, ...] = ("--markdown",)) -> tuple[str, list[str]]:
    client, script = scripted(*(reply(answer) for answer in answers))
    monkeypatch.setattr("stillhouse.cli.output.Stillhouse", lambda: client)
    result = CliRunner().invoke(app, ["jobs", "report", "cjob-1", *arguments])
    assert result.exit_code == 0, result.output
    return result.output, [str(request.url) for request in script.requests]


class TestReport:
    def test_scores_verdict_and_what_got_worse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = job("succeeded", program_name="support-router", artifact={"id": "art-2", "name": "support-router"})
        page, nothing = {"data": [PAIR], "has_more": False}, {"data": [], "has_more": False}
        text, asked = report(monkeypatch, done, EVALUATION, page, nothing)
        assert "| compiled | 0.843 | 0.797 to 0.882 | 299 | 1 | 1 | 0.25 | 900 | 30 |" in text
        assert "| TF-IDF | 0.850 | 0.800 to 0.890 | 300 | – | – | – | – | – |" in text
        verdict = "**better**, but not better than TF-IDF, +0.036 (+0.004 to +0.068); 300 pairs, 14 fixes, 1 regressions."
        assert f"Compared with incumbent: {verdict}" in text
        assert "## Regressions (1)" in text
        assert "## Fixes" not in text
        assert "Artifact `art-2`." in text
        assert "change=regression" in asked[2]

    def test_an_example_stays_in_its_cell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pages = ({"data": [PAIR], "has_more": False}, {"data": [], "has_more": False})
        text, _ = report(monkeypatch, job("succeeded"), EVALUATION, *pages)
        (line,) = [line for line in text.splitlines() if line.startswith("| 7 |")]
        assert line.replace("\\|", "").count("|") == 5
        assert "<script>" not in text

    def test_without_a_holdout_it_says_why_there_is_no_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        none: dict[str, Any] = {"data": [], "n": None, "metric": None, "delta": None, "note": "No rows are held out (9 rows)"}
        text, asked = report(monkeypatch, job("succeeded", warnings=[{"code": "no_holdout", "message": "few"}]), none)
        assert "No rows are held out (9 rows)" in text
        assert "## Warnings\n\n- few" in text
        assert len(asked) == 2

    def test_on_a_terminal_it_is_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        empty = {"data": [], "has_more": False}
        text, _ = report(monkeypatch, job("succeeded"), json.loads(json.dumps(EVALUATION)), empty, empty, arguments=())
        assert "0.843" in text
        assert "| --- |" not in text

    def test_as_json_it_is_what_the_server_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pages = ({"data": [PAIR], "has_more": False}, {"data": [], "has_more": False})
        text, _ = report(monkeypatch, job("succeeded"), EVALUATION, *pages, arguments=("--json",))
        said = json.loads(text)
        assert (said["job"]["id"], said["evaluation"]["delta"]["verdict"], said["regressions"][0]["row"]) == ("cjob-1", "better", 7)
