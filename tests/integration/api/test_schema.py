"""Every operation of openapi.json, asked what its schema allows and what it does not: it answers as it says, and never with 5xx."""

from __future__ import annotations

import csv
import io
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pytest
import schemathesis
from arro3.io import infer_json_schema, read_json, write_parquet
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from starlette.testclient import TestClient

from app.main import build_routes
from distill.catalog import keys, projects
from distill.db import unit_of_work
from distill.spec import LAST_SECOND
from tests.integration.api.conftest import ROWS, Tokens
from tests.integration.api.every_route import objects_of
from tests.support.bundles import PYTHON
from tests.support.texts_lm import TextsLM

EXAMPLES, SEED = 12, 7
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
STRONGEST = [scope for scope in ("admin", "operator") if scope in keys.SCOPES]
DEPENDS = frozenset({401, 403, 404, 409, 412, 429})
"""Statuses of refusals that no schema can say: they depend on the key, or on what is there."""


PROGRAMS, JOBS = r"POST /v1/(programs|compile_jobs|compile_jobs/estimate)", r"POST /v1/compile_jobs(/estimate)?"
EXPLAINED: Mapping[tuple[str, str, str], str] = {
    (PROGRAMS, "invalid_program", r"^(predictor |field `|step |demo: |there is no |`)"): "names in a program refer to each other",
    (PROGRAMS, "reference_failed", r"^desk\.scores:right raised TypeError"): "what code is shows when it is imported; this is a metric",
    (PROGRAMS, "source_changed", r"^desk\.scores:right: the source of "): "what the source of code is shows when it is imported",
    (JOBS, "unknown_lm", r"no predictor uses an LM"): "the program says which LMs there are",
    (JOBS, "invalid_rows", r"Row \d+, `message`: required input is missing"): "the program says which inputs a row has",
    (JOBS, "invalid_value", r"`min_pass` is more than `n`"): "JSON Schema compares no two numbers",
    (r"POST /v1/metrics/{metric_id}/try", "invalid_value", r"are pairs"): "JSON Schema compares no two lengths",
}
"""What the schema allows and the server refuses all the same, by operation, code and message, and why the schema does not say it."""


def files(rows: list[dict[str, str]]) -> dict[str, bytes]:
    """The same rows in each format, by media type."""
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table, text = io.BytesIO(), io.StringIO()
    write_parquet(read_json(io.BytesIO(lines), infer_json_schema(io.BytesIO(lines))), table)
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return {"application/jsonl": lines, "text/csv": text.getvalue().encode(), "application/vnd.apache.parquet": table.getvalue()}


SOME_ROWS = st.lists(st.fixed_dictionaries({name: st.text(string.printable, min_size=1) for name in ROWS[0]}), min_size=1, max_size=5)
for kind in files(ROWS):
    schemathesis.openapi.media_type(kind, SOME_ROWS.map(files).map(itemgetter(kind)))


@pytest.fixture
def lm_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Models have prices, or every limit in money would be refused before anything else is looked at."""
    for connection in ("HOUSE", "BIG"):
        monkeypatch.setenv(f"STILLHOUSE_CONNECTIONS__{connection}__PRICES", json.dumps({"*": {"input": 1, "output": 2}}))
    with TextsLM(answer=lambda ask: {"category": "billing"} if ask.outputs else "billing") as lm:
        yield lm.url


@dataclass
class Found:
    """What was wrong, one an operation; and of what the schema allows, what was refused, by operation, code and parameter."""

    faults: list[str] = field(default_factory=list)
    refused: dict[tuple[str, str, str | None], str] = field(default_factory=dict)


def ask_all(document: dict[str, Any], address: str, headers: Mapping[str, str], there: Mapping[str, str]) -> Found:
    """`there` are parameters that lead to something: every other case has those of paths, and each those of queries and bodies. What is
    deleted is deleted last."""
    schema, found = schemathesis.openapi.from_dict(document), Found()
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == sum(map(len, document["paths"].values()))
    for number, operation in enumerate(sorted(operations, key=lambda each: each.method == "delete")):
        try:
            asker(operation, SEED + number, address, headers, there, found)()
        except (FailureGroup, Exception) as error:
            found.faults.append("\n".join([f"{operation.label}: {error}", *leaves(error)]))
    return found


def leaves(error: BaseException) -> Iterator[str]:
    """The errors of a group: what hypothesis raises where a case fails once alone says nothing itself."""
    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield f"{type(each).__name__}: {each}"
        yield from leaves(each)


def references(there: Mapping[str, str]) -> dict[str, Any]:
    """What leads to something, or is allowed there, by its name in bodies and queries; below a path what is so at this path alone."""
    inputs = {"inputs": {"message": ROWS[0]["message"]}}
    return {
        "project": there["project"],
        "program": there["program_id"],
        "trainset": there["dataset_id"],
        "valset": there["dataset_id"],
        "replaces": there["key_id"],
        "training_file": there["file_id"],
        "validation_file": there["file_id"],
        "scopes": ["jobs:read"],
        "expires_at": LAST_SECOND,
        "deadline": LAST_SECOND,
        "models": ["large-model"],
        "python": PYTHON,
        "packages": {},
        "url": "https://hooks.example.com/x",
        "base_url": "https://api.example.com/v1",
        "/code": {"reference": "desk.scores:right", "bundle": there["bundle_id"], "kwargs": {}},
        "/v1/fine_tuning/jobs": {"model": "house/tiny"},
        "/v1/connections/{connection_id}/test": {"model": "large-model"},
        "/v1/programs/{program_id}/render": inputs,
        "/v1/artifacts/{artifact_id}/call": inputs,
    }


def is_explained(operation: str, code: str, message: str) -> bool:
    return any(
        re.fullmatch(operations, operation) and wanted == code and re.search(words, message) for operations, wanted, words in EXPLAINED
    )


def with_real(value: Any, real: Mapping[str, Any]) -> Any:
    """`value` with what `real` has in place of what stands under the same name and is of the same type. Code gets its bundle."""
    if isinstance(value, list):
        return [with_real(each, real) for each in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("reference"), str):
        value = {**value, **real["/code"]}
    same = {name: one for name, one in real.items() if kind_of(one) is kind_of(value.get(name))}
    return {name: same[name] if name in same else with_real(inner, real) for name, inner in value.items()}


def kind_of(value: Any) -> type:
    """Its type; an integer of JSON may be written as 1.0."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def is_allowed(parameters: Iterable[Any], sent: Mapping[str, str]) -> bool:
    """Whether the schema allows what a path says once it is decoded. The generator's `$` lets a newline through; of a percent sign and two
    hexadecimal digits in a value it sends the byte, and not those three characters."""
    patterns = {each.name: each.definition["schema"]["pattern"] for each in parameters}
    return all(re.fullmatch(patterns[name], unquote(value)) for name, value in sent.items())


def asker(
    operation: Any, number: int, address: str, headers: Mapping[str, str], there: Mapping[str, str], found: Found
) -> Callable[[], None]:
    turn, every = count(), references(there) if there else {"/code": {}}
    real = {**every, **every.get(operation.path, {})}

    @seed(number)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        assume(is_allowed(operation.path_parameters, case.path_parameters or {}))
        if next(turn) % 2:
            given = case.path_parameters or {}
            case.path_parameters = {name: there.get(operation.path, there.get(name, value)) for name, value in given.items()}
        case.query, case.body = with_real(case.query, real), with_real(case.body, real)
        if "Idempotency-Key" in (case.headers or {}):
            case.headers["Idempotency-Key"] = uuid4().hex
        if isinstance((case.query or {}).get("wait"), int):
            case.query["wait"] = min(case.query["wait"], 1)
        reply = case.call_and_validate(base_url=address, headers=headers, checks=list(CHECKS), timeout=60)
        if 400 <= reply.status_code < 500 and reply.status_code not in DEPENDS:
            error = reply.json()["error"]
            found.refused.setdefault(
                (operation.label, error["code"], error["param"]), f"{error['message']} {case.path_parameters} {case.body!r:.500}"
            )

    return ask


@pytest.mark.slow
class TestOperations:
    @pytest.mark.parametrize("scope", STRONGEST)
    def test_with_a_key(self, address: str, api: TestClient, tokens: Tokens, scope: str) -> None:
        there = objects_of(api, {"Authorization": f"Bearer {tokens.admin}"})
        with unit_of_work() as s:
            project = projects.ensure(s, projects.OPERATORS if scope == "operator" else "support")
            token = keys.create(s, project.id, scope, [scope])[1]
        found = ask_all(build_routes().openapi(), address, {"Authorization": f"Bearer {token}"}, there)
        assert not found.faults, "\n\n".join(found.faults)
        unexplained = [(*key, said) for key, said in found.refused.items() if not is_explained(*key[:2], said)]
        assert not unexplained, "\n".join(map(str, unexplained))
        assert len({label for label, *_ in found.refused}) < 5

    def test_without_a_key(self, address: str) -> None:
        found = ask_all(build_routes().openapi(), address, {}, {})
        assert not found.faults, "\n\n".join(found.faults)

    def test_a_status_that_is_not_declared_would_be_found(self, address: str) -> None:
        document = build_routes().openapi()
        document["paths"] = {"/v1/me": document["paths"]["/v1/me"]}
        del document["paths"]["/v1/me"]["get"]["responses"]["401"]
        (fault,) = ask_all(document, address, {}, {}).faults
        assert "GET /v1/me" in fault
        assert "401" in fault
