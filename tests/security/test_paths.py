"""Names, ids and paths: whatever way out of a folder they spell, nothing outside is read or written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens, job_body
from tests.integration.api.every_route import BODIES, filled, objects_of, operations
from tests.integration.api.finished import finish
from tests.security.test_doors import HOOK

CANARY = "canary-4f1c9b"

_UP = r"""
    ../ ..%2f %2e%2e/ %2e%2e%2f ..%252f %252e%252e%252f ..\ ..%5c %2e%2e%5c ..%255c
    ....// ..;/ ..%c0%af %c0%ae%c0%ae/ ..%ef%bc%8f %uff0e%uff0e/ ..%00/ ./../ ..%0d%0a/ ..%09/
"""
_START = r"""
    / // %2f %252f file:/// file://localhost/ ~/ ~root/ C:\ C:/
    \\host\ \\?\ ./ %00/ $HOME/ ${HOME}/ `cat`/ -/ |/ */
"""


def ways(secret: Path) -> Iterator[str]:
    """40 ways to spell a file outside."""
    target = str(secret).lstrip("/")
    for up in _UP.split():
        yield up * 12 + target
    for start in _START.split():
        yield start + target


@pytest.mark.record("CVE-2023-1177")
def test_no_spelling_of_a_path_leads_outside(api: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    artifact = finish(api).artifact_id
    spelled = list(ways(secret))
    assert len(spelled) == 40
    addresses = {path for verb, path, _ in operations() if verb == "GET" and "{" in path}
    for way in spelled:
        reply = api.get(f"/v1/artifacts/{artifact}/files/{way}")
        assert reply.status_code in {400, 404, 405, 422}, way
        assert CANARY not in reply.text
        for path in addresses:
            reply = api.get(re.sub(r"\{[^}]+\}", "WAY", path).replace("WAY", way))
            assert reply.status_code < 500, (path, way)
            assert CANARY not in reply.text, (path, way)


def _addresses(ids: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Every method and path with parameters: all of them to be a way out, and where there are several each one alone."""
    for verb, path, name in operations():
        names = re.findall(r"\{(\w+)\}", path)
        if verb != "GET" and names:
            yield verb, re.sub(r"\{\w+\}", "WAY", path), name
        if len(names) > 1:
            yield from ((verb, filled(path.replace(f"{{{each}}}", "WAY"), ids), name) for each in names)


@pytest.mark.slow
def test_nor_at_any_id_of_any_route(api: TestClient, tokens: Tokens, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    admin = {"Authorization": f"Bearer {tokens.admin}"}
    ids = objects_of(api, admin)
    asked = list(_addresses(ids))
    assert len(asked) > 30
    before = sorted(path for path in tmp_path.rglob("*") if "blobs" not in path.parts)
    wrong = {}
    for way in ways(secret):
        for verb, address, name in asked:
            reply = api.request(verb, address.replace("WAY", way), json=BODIES.get(name, {}), headers=admin)
            if reply.status_code >= 500 or reply.is_success or CANARY in reply.text:
                wrong[verb, address, way] = reply.status_code
    assert wrong == {}
    assert secret.read_text() == CANARY
    assert sorted(path for path in tmp_path.rglob("*") if "blobs" not in path.parts) == before


@pytest.mark.record("CVE-2022-0736")
def test_what_the_server_writes_is_its_users_alone(api: TestClient, tokens: Tokens, tmp_path: Path) -> None:
    api.post("/v1/compile_jobs", json=job_body())
    api.post("/v1/webhook_endpoints", json=HOOK, headers={"Authorization": f"Bearer {tokens.admin}"})
    home = tmp_path / "stillhouse-home"
    written = [path for path in home.rglob("*") if not path.is_symlink()]
    assert len(written) > 3
    open_to_others = {path.relative_to(home).as_posix(): oct(path.stat().st_mode) for path in written if path.stat().st_mode & 0o022}
    assert open_to_others == {}, "others may write"
    assert (home / "sealing.key").stat().st_mode & 0o077 == 0
    folders = {
        path.relative_to(home).as_posix(): oct(path.stat().st_mode) for path in written if path.is_dir() and path.stat().st_mode & 0o077
    }
    assert folders == {}, "others may look"
