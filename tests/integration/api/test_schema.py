"""Every operation of openapi.json, asked what its schema allows and what it does not: it answers as it says, and never with 5xx."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from starlette.testclient import TestClient

from app.main import build_routes
from distill.catalog import keys, projects
from distill.db import unit_of_work
from tests.integration.api.conftest import Tokens
from tests.integration.api.every_route import objects_of
from tests.support.texts_lm import TextsLM

EXAMPLES, SEED = 3, 7
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
STRONGEST = [scope for scope in ("admin", "operator") if scope in keys.SCOPES]
DEPENDS = frozenset({401, 403, 404, 409, 412, 429})
"""Statuses of refusals that no schema can say: they depend on the key, or on what is there."""


EXPLAINED: Mapping[str, str] = {
    r"integer of more than 64 bits|holds the character NUL": "rows, inputs, outputs and keyword arguments are any JSON",
    r"are pairs|is more than `n`": "JSON Schema does not compare two lengths or two numbers",
    r"^(program|predictors|spec|prompt_adapter)\b|unknown key|a CSV names its columns|file's name must end"
    r"|is not a web address": "specs, files and addresses have grammars of their own",
    r"belongs to project|\bno (project|program|file|API key)|has no (bundle|model)|inputs?\b.*(is missing|expected)|has passed"
    r"|with another body|server may import|server runs programs|begin with https:|not a public address": "it depends on what is there",
}
"""What the schema allows and the server refuses all the same: which, by its message, and why the schema does not say it."""


@pytest.fixture
def lm_url() -> Iterator[str]:
    with TextsLM(answer=lambda ask: {"category": "billing"} if ask.outputs else "billing") as lm:
        yield lm.url


@dataclass
class Found:
    """What was wrong, one an operation; and of what the schema allows, what was refused, by operation, code and parameter."""

    faults: list[str] = field(default_factory=list)
    refused: dict[tuple[str, str, str | None], str] = field(default_factory=dict)


def ask_all(document: dict[str, Any], address: str, headers: Mapping[str, str], there: Mapping[str, str]) -> Found:
    """`there` are path parameters that lead to something; every other case has them. What is deleted is deleted last."""
    schema, found = schemathesis.openapi.from_dict(document), Found()
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == sum(map(len, document["paths"].values()))
    for number, operation in enumerate(sorted(operations, key=lambda each: each.method == "delete")):
        try:
            asker(operation, SEED + number, address, headers, there, found)()
        except (FailureGroup, Exception) as error:
            found.faults.append(f"{operation.label}: {error}")
    return found


def asker(
    operation: Any, number: int, address: str, headers: Mapping[str, str], there: Mapping[str, str], found: Found
) -> Callable[[], None]:
    turn = count()

    @seed(number)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        if next(turn) % 2:
            given = case.path_parameters or {}
            case.path_parameters = {name: there.get(operation.path, there.get(name, value)) for name, value in given.items()}
        if isinstance((case.query or {}).get("wait"), int):
            case.query["wait"] = min(case.query["wait"], 1)
        reply = case.call_and_validate(base_url=address, headers=headers, checks=list(CHECKS), timeout=60)
        if 400 <= reply.status_code < 500 and reply.status_code not in DEPENDS:
            error = reply.json()["error"]
            found.refused.setdefault((operation.label, error["code"], error["param"]), error["message"])

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
        unexplained = [(label, said) for (label, *_), said in found.refused.items() if not any(re.search(why, said) for why in EXPLAINED)]
        assert not unexplained, "\n".join(map(str, unexplained))
        assert len(EXPLAINED) < 5

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
