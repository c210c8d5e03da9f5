"""What a caller sees of a disk that fails."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from distill.settings import get_settings
from tests.integration.api.conftest import ROWS
from tests.integration.api.finished import finish

README = b"# router"


def place_of(content: bytes) -> Path:
    name = sha256(content).hexdigest()
    return get_settings().blob_root / name[:2] / name[2:]


class TestDamage:
    @pytest.mark.parametrize("what", ["flipped", "lost"])
    def test_is_told_before_a_byte_goes_out(self, api: TestClient, what: str) -> None:
        artifact = f"/v1/artifacts/{finish(api).artifact_id}"
        assert api.get(f"{artifact}/files/README.md").content == README
        if what == "lost":
            place_of(README).unlink()
        else:
            place_of(README).write_bytes(b"# Router")
        for path, headers in (("content", {}), ("files/README.md", {}), ("files/README.md", {"range": "bytes=2-4"})):
            reply = api.get(f"{artifact}/{path}", headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (500, "artifact_corrupt")
            assert "restore it from a backup" in reply.json()["error"]["message"]
            assert "sha256" not in reply.text
        assert api.get(f"{artifact}/files/spec.json").status_code == 200

    def test_a_range_of_a_good_file(self, api: TestClient) -> None:
        reply = api.get(f"/v1/artifacts/{finish(api).artifact_id}/files/README.md", headers={"range": "bytes=2-4"})
        assert (reply.status_code, reply.content) == (206, b"rou")


class TestFullDisk:
    def test_an_upload_is_refused_for_now(self, api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            reply = api.post("/v1/datasets", json={"rows": ROWS})
        assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "storage", "30")
        assert str(get_settings().home) not in reply.text
        assert api.post("/v1/datasets", json={"rows": ROWS}).status_code == 201
