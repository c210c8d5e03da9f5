"""Hostile bodies, sent to every route that takes JSON: each is refused in the one shape of errors, or taken as plain data."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app import examples
from app.docs_page import example_bodies, example_path
from distill.db import Base, unit_of_work
from tests.integration.api.test_examples import common, described, named, operator  # noqa: F401 - a fixture
from tests.security.hostile_bodies import MARK, REFUSED, Make, as_json, one_wrong, taken_or_refused
from tests.security.test_paths import CANARY, ways
from tests.security.test_silence import INSIDE
from tests.support.scripted_lm import ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.lm_answers(lambda ask: "billing")]
SHAPE = {"message", "type", "code", "param", "request_id"}
_COUNT = " UNION ALL ".join(f"SELECT count(*) AS n FROM {name}" for name in sorted(Base.metadata.tables))


@pytest.fixture(autouse=True)
def _host_lists_its_models(lm: ScriptedLM) -> None:
    """One that lists a model and lacks a route has it not, a 400; one that does not list it may be starting, a 503."""
    lm.models = ("tiny", "big-model", *(f"{examples.MODEL}-{number}" for number in range(1000)))


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    """Where nobody connects to."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0)
        yield listening


@pytest.fixture
def touched() -> Iterator[Path]:
    """A file that nothing makes; its path is short, so that every name may hold it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "t"


def routes(names: dict[str, str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, address and a body that works, of every route that takes JSON."""
    for path, verbs in described()["paths"].items():
        for verb, operation in verbs.items():
            for kind, body in example_bodies(described(), operation):
                if kind == "application/json" and isinstance(body, dict):
                    yield verb.upper(), named(example_path(path, operation), names), json.loads(named(json.dumps(body), names))
                    break


#: Who names something that is not there is told the name, as far as it is short: else nobody finds the slip.
NAMING = re.compile(r"unknown (metric|event|scope) `[^`]{0,64}`|no (model|artifact) .{0,200}", re.DOTALL)


def fault(reply: Any, *ours: str) -> str | None:
    """What is wrong with an answer. `ours` are paths and addresses that were sent: those are no news."""
    if reply.status_code >= 500:
        return f"{reply.status_code} {reply.text[:200]}"
    if reply.status_code < 400:
        return None
    error = reply.json().get("error", {})
    if set(error) - {"details"} != SHAPE or error["request_id"] != reply.headers["x-request-id"]:
        return f"not the one shape: {reply.text[:200]}"
    said = NAMING.sub("", " ".join([error["message"], error["param"] or "", json.dumps(error.get("details"))]))
    for sent in ours:
        said = said.replace(sent, "")
    if MARK in said:
        return f"repeats what was sent: {said[:300]}"
    return f"tells of the inside: {said[:300]}" if INSIDE.search(said) else None


def stored() -> int:
    with unit_of_work() as s:
        return sum(s.scalars(text(_COUNT)))


def asked(api: TestClient, bodies: Mapping[str, Make], *ours: str) -> Iterator[tuple[str, Any, str | None]]:
    """Every route with every body: which it was, the answer, and what is wrong with it."""
    for verb, address, good in list(routes(common(api))):
        for name, make in bodies.items():
            content, headers = make(good)
            reply = api.request(verb, address, content=content, headers=headers)
            yield f"{verb} {address}: {name}", reply, fault(reply, *ours, *files(good))


def files(good: dict[str, Any]) -> list[str]:
    """The names in a bundle."""
    return list(good.get("files", ()))


ENOUGH = 20
"""Faults to be told of at once: where all is broken, the rest says nothing new."""


def told(faults: Mapping[str, str]) -> str:
    return "\n".join(f"{asked}: {wrong}" for asked, wrong in faults.items())


@pytest.mark.record("rule-hostile-bodies")
def test_what_no_route_takes_is_refused_and_leaves_nothing(operator: TestClient) -> None:  # noqa: F811
    assert len(REFUSED) >= 30
    faults, places, before = {}, set(), None
    for where, reply, wrong in asked(operator, REFUSED):
        before = before or stored()
        places.add(where.partition(": ")[0])
        if wrong or reply.status_code < 400:
            faults[where] = wrong or f"{reply.status_code} {reply.text[:200]}"
        if len(faults) > ENOUGH:
            break
    assert not faults, told(faults)
    assert len(places) >= 26
    assert stored() == before


@pytest.mark.record("rule-no-echo")
def test_what_some_field_takes_is_plain_data(operator: TestClient, touched: Path, sink: socket.socket) -> None:  # noqa: F811
    at = "{}:{}".format(*sink.getsockname())
    faults = {where: wrong for where, _, wrong in asked(operator, taken_or_refused(str(touched), at), str(touched), at) if wrong}
    assert not faults, told(faults)
    assert_untouched(touched, sink)


@pytest.mark.record("CVE-2024-52803")
def test_a_wrong_value_at_any_place_is_refused_or_plain_data(operator: TestClient, touched: Path, sink: socket.socket) -> None:  # noqa: F811
    at = "{}:{}".format(*sink.getsockname())
    payload = f"{MARK};touch {touched};$(touch {touched})' OR '1'='1--{{{{7*7}}}}{{0.__class__}}%s"
    faults, count = {}, 0
    for verb, address, good in list(routes(common(operator))):
        for name, body in one_wrong(good, payload):
            content, headers = as_json(body)
            count += 1
            if wrong := fault(operator.request(verb, address, content=content, headers=headers), str(touched), at, *files(good)):
                faults[f"{verb} {address}: {name}"] = wrong
    assert not faults, told(faults)
    assert count > 500
    assert_untouched(touched, sink)


def assert_untouched(touched: Path, sink: socket.socket) -> None:
    assert not touched.exists()
    with pytest.raises(BlockingIOError):
        sink.accept()


#: Fields that name or point at something.
_POINTING = "artifact client dataset file item job label metric model name program program_name project python reference replaces suffix"
POINTING = {*_POINTING.split(), "teacher", "trainset", "training_file", "valset"}


def test_no_spelling_of_a_path_in_a_name_leads_outside(operator: TestClient, tmp_path: Path) -> None:  # noqa: F811
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    spelled, wrong, places = list(ways(secret)), {}, set()
    for verb, address, good in list(routes(common(operator))):
        for field in sorted(POINTING & good.keys()):
            places.add((verb, address, field))
            for way in spelled:
                content, headers = as_json({**good, field: way})
                reply = operator.request(verb, address, content=content, headers=headers)
                if reply.status_code >= 500 or CANARY in reply.text:
                    wrong[verb, address, field, way] = reply.status_code
    assert wrong == {}
    assert len(places) > 20
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path != secret and CANARY in path.read_text("latin-1")] == []
