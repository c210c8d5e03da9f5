"""Every operation of openapi.json, asked what its schema allows and what it does not: it answers as it says, and never with 5xx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from tests.integration.api.conftest import Tokens
from tests.integration.api.finished import MODEL, finish

EXAMPLES, SEED = 3, 7
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


def faults(document: dict[str, Any], address: str, headers: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What was found, one an operation. `there` are path parameters that lead to something; every other case has them."""
    schema = schemathesis.openapi.from_dict(document)
    found = []
    for number, result in enumerate(schema.get_all_operations()):
        assert isinstance(result, Ok), result
        operation = result.ok()
        try:
            asker(operation, SEED + number, address, headers, there)()
        except (FailureGroup, Exception) as error:
            found.append(f"{operation.label}: {error}")
    return found


def asker(operation: Any, number: int, address: str, headers: Mapping[str, str], there: Mapping[str, str]) -> Callable[[], None]:
    turn = count()

    @seed(number)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        if next(turn) % 2:
            case.path_parameters = {name: there.get(name, value) for name, value in (case.path_parameters or {}).items()}
        if isinstance((case.query or {}).get("wait"), int):
            case.query["wait"] = min(case.query["wait"], 1)
        case.call_and_validate(base_url=address, headers=headers, checks=list(CHECKS), timeout=60)

    return ask


@pytest.mark.slow
class TestOperations:
    def test_with_a_key(self, address: str, api: TestClient, tokens: Tokens) -> None:
        finished = finish(api)
        api.post(f"/v1/compile_jobs/{finished.job_id}/cancel")
        job = api.get(f"/v1/compile_jobs/{finished.job_id}").json()
        there = {
            "job_id": finished.job_id,
            "artifact_id": finished.artifact_id,
            "model_id": MODEL,
            "program_id": job["program"],
            "dataset_id": job["trainset"],
            "path": "README.md",
        }
        found = faults(build_routes().openapi(), address, {"Authorization": f"Bearer {tokens.all}"}, there)
        assert not found, "\n\n".join(found)

    def test_without_a_key(self, address: str) -> None:
        found = faults(build_routes().openapi(), address, {}, {})
        assert not found, "\n\n".join(found)

    def test_a_status_that_is_not_declared_would_be_found(self, address: str) -> None:
        document = build_routes().openapi()
        document["paths"] = {"/v1/me": document["paths"]["/v1/me"]}
        del document["paths"]["/v1/me"]["get"]["responses"]["401"]
        (found,) = faults(document, address, {}, {})
        assert "GET /v1/me" in found
        assert "401" in found
