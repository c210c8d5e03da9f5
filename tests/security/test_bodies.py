"""What is sent: pickles, forms that cost time, addresses that lead inside, strings that become something else."""

from __future__ import annotations

import base64
import io
import os
import pickle
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from distill import egress
from distill.errors import Invalid
from tests.integration.api.conftest import Tokens, job_body
from tests.security.test_doors import HOOK
from tests.support.bundles import bundle


class Touch:
    """Its pickle makes the file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return out.getvalue()


@pytest.mark.record("CVE-2025-53002")
def test_a_pickle_under_any_name_is_refused_and_not_read(api: TestClient, tmp_path: Path) -> None:
    content = pickle.dumps(Touch(tmp_path / "pwned"))
    for name in ("a.bin", "a.pt", "a.pth", "a.ckpt", "a.safetensors", "a.zip", "a.pkl", "a.parquet", "a.jsonl", "a.csv"):
        for body in (content, zipped(content)):
            assert api.post("/v1/datasets", files={"file": (name, body)}).status_code in {400, 415, 422}, name
    assert not (tmp_path / "pwned").exists()


@pytest.mark.record("CVE-2025-27520")
def test_no_content_type_makes_a_pickle_of_a_body(api: TestClient, tmp_path: Path) -> None:
    content = pickle.dumps(Touch(tmp_path / "pwned"))
    headers = {"Payload-Container": "NdarrayContainer", "Payload-Meta": "{}", "Batch-Size": "1"}
    for kind in ("application/vnd.bentoml+pickle", "application/x-pickle", "application/octet-stream", "application/python-pickle"):
        for path in ("/v1/datasets", "/v1/compile_jobs", "/v1/programs", "/v1/chat/completions"):
            assert api.post(path, content=content, headers={"Content-Type": kind, **headers}).status_code == 415, (kind, path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.record("rule-bundles")
def test_what_is_sent_to_be_run_is_not_opened_by_the_server(api: TestClient, tmp_path: Path) -> None:
    pickled = base64.b64encode(pickle.dumps(Touch(tmp_path / "pwned"))).decode()
    code = f"open({str(tmp_path / 'pwned')!r}, 'w')"
    document = bundle({"a.py": code, "a/__main__.txt": code}, pickles={"program": {"makes": "program", "data": pickled}})
    made = api.post("/v1/bundles", json=document)
    assert made.status_code == 201, made.text
    assert api.get(f"/v1/bundles/{made.json()['id']}/content").json()["files"] == document["files"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.record("CVE-2026-42208")
def test_what_is_sent_is_a_value_and_never_part_of_a_statement(bare: TestClient, api: TestClient) -> None:
    job = api.post("/v1/compile_jobs", json=job_body()).json()["id"]
    key = api.headers.pop("Authorization")
    for text in (
        "' OR '1'='1",
        "x'; DROP TABLE jobs; --",
        "1) UNION SELECT secret_sha256 FROM api_keys --",
        "\\'; SELECT pg_sleep(9); --",
        "$1",
        "%s",
    ):
        for header in (f"Bearer {text}", f"Bearer sh_{text}_x", f"Bearer sh_a_{text}"):
            assert bare.get("/v1/me", headers={"Authorization": header}).status_code == 401, header
        asked = {"after": text, "status": text, "program": text, "created_by": text, f"metadata[{text}]": text}
        for name, value in asked.items():
            reply = bare.get("/v1/compile_jobs", params={name: value}, headers={"Authorization": key})
            assert reply.status_code in {200, 404, 422}, (name, reply.text)
            assert name == "after" or reply.status_code != 200 or reply.json()["data"] == [], name
    assert bare.get(f"/v1/compile_jobs/{job}", headers={"Authorization": key}).status_code == 200


@pytest.mark.record("CVE-2024-6587")
def test_no_request_chooses_where_a_call_goes(api: TestClient) -> None:
    sink = "https://sink.example/v1"
    for name in ("api_base", "base_url", "api_key", "model_list", "headers", "extra_headers", "extra_body", "extra_query", "organization"):
        where: list[tuple[str, dict[str, Any]]] = [
            ("/v1/compile_jobs", job_body(**{name: sink})),
            ("/v1/compile_jobs", job_body(lms={"default": {"model": "tiny", name: sink}})),
            ("/v1/compile_jobs", job_body(teacher={"lms": {"default": {"model": "big-model", name: sink}}})),
            ("/v1/compile_jobs", job_body(train_options={name: sink})),
            ("/v1/chat/completions", {"model": "house/tiny", "messages": [{"role": "user", "content": "a"}], name: sink}),
        ]
        for path, body in where:
            reply = api.post(path, json=body)
            assert reply.status_code in {400, 422}, (name, path, reply.text)
            assert name in reply.text


def addresses() -> Iterator[str]:
    for host in (
        "127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "0", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254",
        "[fd00::1]", "10.0.0.1", "192.168.1.1", "100.64.0.1", "[64:ff9b::7f00:1]", "224.0.0.1", "0.0.0.0", "[::]",
    ):  # fmt: skip
        yield f"https://{host}/hook"
    yield "http://example.com/hook"
    yield "file:///etc/passwd"
    yield "gopher://example.com/"


@pytest.mark.record("CVE-2025-54381")
def test_no_address_that_leads_inside_is_kept_or_asked(bare: TestClient, tokens: Tokens) -> None:
    admin = {"Authorization": f"Bearer {tokens.admin}"}
    kept = {url for url in addresses() if bare.post("/v1/webhook_endpoints", json={**HOOK, "url": url}, headers=admin).status_code != 422}
    assert kept <= {"https://localhost/hook"}, "names are looked at when they are asked"
    for address in ("127.0.0.1", "::1", "::ffff:10.0.0.1", "169.254.169.254", "64:ff9b::a00:1", "100.64.0.1", "0.0.0.0"):
        assert not egress.is_public(address), address


@pytest.mark.record("CVE-2026-24779")
def test_an_address_that_parsers_read_differently_is_refused() -> None:
    for url in (
        "https://good.example\\@127.0.0.1/", "https://good.example@127.0.0.1/", "https://127.0.0.1#@good.example/", "https://good.example\t/",
        "https://good.example\r\nHost: evil/", "https://gооd.example/", "https://good.example:80:80/", "https:///good.example/", "https://[::1/",
    ):  # fmt: skip
        with pytest.raises(Invalid):
            egress.check_url(url, ())


@pytest.mark.record("CVE-2024-24762")
def test_a_form_of_very_many_fields_is_refused_early(api: TestClient) -> None:
    field = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    reply = api.post("/v1/datasets", content=field * 5000 + b"--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert reply.status_code == 400
    assert "field" in reply.json()["error"]["message"].lower()


@pytest.fixture
def small_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_LIMITS__MAX_BODY_MB", "1")


@pytest.mark.record("CVE-2025-23310")
def test_a_body_in_tiny_chunks_is_counted_as_it_comes(small_bodies: None, address: str, tokens: Tokens) -> None:
    url = urlsplit(address)
    head = f"POST /v1/datasets HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {tokens.all}\r\nContent-Type: application/jsonl\r\n"
    with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"6\r\n{'a':1\r\n" * 170_000)
        assert connection.recv(1 << 16).split(b" ")[1] == b"413"
