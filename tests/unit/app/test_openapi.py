"""The committed openapi.json is current, and every operation says what it does and how it fails."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from app import examples
from app.auth import OPEN_PATHS
from app.docs_page import curl, docs_page, example_bodies
from app.errors import status_at
from app.main import build_routes
from app.openapi import text
from distill.spec_faults import FORMS

#: POSTs that take no Idempotency-Key, since the same one again does nothing more.
WITHOUT_KEY = {
    "start_session": "each is another session; one whose reply was lost ends by itself",
    "estimate_compile_job": "stores nothing and asks no LM",
    "render_program": "stores nothing and asks no LM",
    "try_metric": "stores nothing and asks no LM",
    "start_compile_job": "a job that is started is not started again",
    "pause_compile_job": "a job that is paused stays so",
    "resume_compile_job": "a job that goes on goes on",
    "cancel_compile_job": "a job that is cancelled stays so",
    "cancel_compile_jobs": "jobs that are cancelled stay so",
    "cancel_fine_tuning_job": "a job that is cancelled stays so",
    "pause_fine_tuning_job": "a job that is paused stays so",
    "resume_fine_tuning_job": "a job that goes on goes on",
    "claim_work_item": "a claim whose reply was lost ends with its lease",
    "beat_work_item": "a lease that is renewed twice is renewed",
    "release_work_item": "the fence lets it through once",
    "publish_work_item": "the fence lets it through once, and again it changes nothing",
    "send_traces": "what is there already stays",
    "send_scores": "what is there already stays",
    "redeliver_webhook": "a delivery that waits already waits once; receivers tell repeats by its id",
}

COMMITTED = Path(__file__).parents[3] / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build_routes().openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, verb, operation) for path, verbs in document["paths"].items() for verb, operation in verbs.items()]


def _errors_of(path: str, operation: dict[str, Any]) -> set[str]:
    """What can come of an operation, by what it takes."""
    headers = {parameter["name"].lower() for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}
    found = {401, 403, status_at(422, path), 429, 500, 503}
    found |= {404} if "{" in path else set()
    found |= {400, 408, 413, 415} if "requestBody" in operation else set()
    found |= {409} if "idempotency-key" in headers else set()
    found |= {412} if "if-match" in headers else set()
    return {str(status) for status in found}


class TestCommitted:
    def test_is_current(self) -> None:
        assert COMMITTED.read_text(encoding="utf-8") == text(), "run: make openapi"


class TestOperations:
    def test_each_has_a_summary_of_its_own(self, document: dict[str, Any]) -> None:
        summaries = [operation["summary"] for _, _, operation in operations(document)]
        assert len(set(summaries)) == len(summaries)

    def test_each_has_a_unique_id(self, document: dict[str, Any]) -> None:
        ids = [operation["operationId"] for _, _, operation in operations(document)]
        assert len(set(ids)) == len(ids)

    def test_each_declares_its_errors_in_the_one_shape(self, document: dict[str, Any]) -> None:
        for path, verb, operation in operations(document):
            if path in OPEN_PATHS:
                continue
            assert _errors_of(path, operation) <= set(operation["responses"]), (verb, path)
            for status, reply in operation["responses"].items():
                if status >= "400":
                    schema = reply["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (verb, path, status)

    def test_each_post_takes_an_idempotency_key_or_needs_none(self, document: dict[str, Any]) -> None:
        posts = {
            operation["operationId"]: {parameter["name"] for parameter in operation.get("parameters", ())}
            for _, verb, operation in operations(document)
            if verb == "post"
        }
        without = {name for name, parameters in posts.items() if "Idempotency-Key" not in parameters}
        assert without == set(WITHOUT_KEY)

    def test_only_health_and_the_page_that_signs_in_need_no_key(self, document: dict[str, Any]) -> None:
        assert document["security"] == [{"apiKey": []}]
        open_paths = {path for path, _, operation in operations(document) if operation.get("security") == []}
        assert open_paths == OPEN_PATHS

    def test_bodies_refuse_unknown_fields(self, document: dict[str, Any]) -> None:
        for name in ("JobCreate", "JobUpdate", "ProgramCreate", "LmIn", "TeacherIn"):
            assert document["components"]["schemas"][name]["additionalProperties"] is False, name

    def test_no_header_or_query_parameter_is_null(self, document: dict[str, Any]) -> None:
        """None can be sent, and generators of clients leave out an operation that says so."""
        declared = [(path, verb, each) for path, verb, operation in operations(document) for each in operation.get("parameters", ())]
        null = [(path, verb, each["name"]) for path, verb, each in declared if '"null"' in json.dumps(each["schema"])]
        assert len(declared) > 100
        assert not null

    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
        assert names <= set(document["components"]["schemas"])

    def test_every_pattern_has_words_for_a_refusal(self, document: dict[str, Any]) -> None:
        patterns = {json.loads(text) for text in re.findall(r'"pattern": ("(?:[^"\\\\]|\\\\.)*")', json.dumps(document))}
        assert len(patterns) > 5
        assert patterns <= set(FORMS)


class TestDocsPage:
    def test_shows_every_path_and_escapes(self, document: dict[str, Any]) -> None:
        page = docs_page({**document, "info": {"title": "<b>", "version": "1", "description": "<script>alert(1)</script>"}}).html
        assert all(path in page for path in document["paths"])
        assert "<script>alert" not in page
        assert "<b>" not in page

    def test_shows_names_as_code_and_replies_in_order(self, document: dict[str, Any]) -> None:
        page = docs_page({**document, "info": {"title": "t", "version": "1", "description": "Send `a<b` and `c`, or ` alone."}}).html
        assert "<p>Send <code>a&lt;b</code> and <code>c</code>, or ` alone.</p>" in page
        prose = re.sub(r"<(pre|textarea|script)\b.*?</\1>", "", docs_page(document).html, flags=re.DOTALL)
        assert "`" not in prose
        for table in re.findall(r"<table>((?:<tr><td>\d+</td>.*?</tr>)+)</table>", prose):
            codes = re.findall(r"<tr><td>(\d+)</td>", table)
            assert codes == sorted(codes)

    def test_needs_nothing_from_elsewhere(self, document: dict[str, Any]) -> None:
        page = docs_page(document).html
        tags = re.findall(r"<[a-z][^>]*>", page)
        led_to = {match for tag in tags for match in re.findall(r'(?:href|src|action|data)="?([^" >]*)', tag)}
        assert {place for place in led_to if not place.startswith("#")} == {"/openapi.json"}
        assert not re.search(r"<(script |link|img|iframe|object|embed|form)\b|@import|url\(", page)

    def test_contents_lead_to_every_section(self, document: dict[str, Any]) -> None:
        page = docs_page(document).html
        places = re.findall(r'<h2 id="([^"]+)">', page)
        assert len(places) > 5
        assert re.findall(r'<a href="#([^"]+)">', page) == places

    def test_names_the_fields_of_a_body_with_what_they_take(self, document: dict[str, Any]) -> None:
        page = docs_page(document).html
        assert "<tr><td><code>program</code></td><td>required</td>" in page
        assert "<tr><td><code>demos</code></td><td></td><td><code>keep</code>, <code>drop</code>, <code>auto</code></td></tr>" in page

    def test_says_what_stands_for_address_and_key_in_a_command(self, document: dict[str, Any]) -> None:
        page = docs_page(document).html
        assert "<code>$S</code> is the server's address and <code>$A</code> is <code>Authorization: Bearer" in page

    def test_shows_the_example_of_every_operation(self, document: dict[str, Any]) -> None:
        shown = [html.unescape(text) for text in re.findall(r"<pre>(.*?)</pre>", docs_page(document).html, re.DOTALL)]
        for path, verb, operation in operations(document):
            wanted = list(curl(document, path, verb))
            assert wanted, (verb, path)
            assert set(wanted) <= set(shown), (verb, path)
            for command, (kind, body) in zip(wanted, example_bodies(document, operation), strict=False):
                assert kind != "application/json" or json.loads(shlex.split(command)[-1]) == body, (verb, path)

    def test_a_command_is_what_a_shell_sends(self, document: dict[str, Any]) -> None:
        (command,) = curl(document, "/v1/aliases/{name}", "put")
        words = shlex.split(command)
        assert words[:6] == ["curl", "-X", "PUT", "$S/v1/aliases/support-router@prod", "-H", "$A"]
        assert json.loads(words[-1]) == {"artifact": examples.ARTIFACT}

    def test_document_is_plain_json(self) -> None:
        assert json.loads(text())["openapi"].startswith("3.")
