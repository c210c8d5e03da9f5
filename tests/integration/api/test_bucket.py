"""The API over a bucket: uploads, downloads, and what a caller sees when the server of the bucket fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import readiness
from app.main import create_app
from distill.settings import BlobSettings, get_settings
from tests.integration.api.conftest import ROWS, Tokens
from tests.integration.api.finished import finish
from tests.support.odd_server import Answer, odd_server
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server


@contextmanager
def caller(place: BlobSettings, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A caller of an API that was started with its blobs in this bucket."""
    for name, value in place.model_dump(exclude_none=True).items():
        monkeypatch.setenv(f"STILLHOUSE_BLOBS__{name.upper()}", str(value))
    get_settings.cache_clear()
    headers = {"Authorization": f"Bearer {tokens.all}"}
    with TestClient(create_app(), headers=headers, raise_server_exceptions=False) as client:
        yield client


class TestBucket:
    def test_upload_list_and_download(self, place: BlobSettings, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
        with caller(place, tokens, monkeypatch) as api:
            assert api.post("/v1/datasets", json={"rows": ROWS}).status_code == 201
            artifact = f"/v1/artifacts/{finish(api).artifact_id}"
            assert api.get(f"{artifact}/files/README.md").content == b"# router"
            part = api.get(f"{artifact}/files/README.md", headers={"range": "bytes=2-4"})
            assert (part.status_code, part.content) == (206, b"rou")
            assert api.get(f"{artifact}/content").status_code == 200
        assert not get_settings().blob_root.exists()

    @pytest.mark.parametrize("answer", ["403 AccessDenied", "404 NoSuchBucket", "503 SlowDown", "broken"])
    def test_a_fault_of_its_server_is_told_and_tells_nothing(
        self,
        s3: S3Server,
        place: BlobSettings,
        tokens: Tokens,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
        answer: str,
    ) -> None:
        faulty: list[str] = []
        reply: Answer = lambda _: faulty[0] if faulty else s3.endpoint  # noqa: E731
        with odd_server(reply) as server, caller(place.model_copy(update={"endpoint": server.endpoint}), tokens, monkeypatch) as api:
            faulty.append(answer)
            monkeypatch.setattr("time.sleep", lambda _: None)  # botocore's own, between its tries
            refused = api.post("/v1/datasets", json={"rows": ROWS})
            assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (503, "storage", "30")
            faulty.clear()
            assert api.post("/v1/datasets", json={"rows": ROWS}).status_code == 201
        seen = refused.text + caplog.text + "".join(capfd.readouterr())
        assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, server.endpoint, str(get_settings().home)) if secret in seen]

    def test_readyz_is_503_until_the_bucket_answers_again(
        self, s3: S3Server, place: BlobSettings, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
        faulty: list[str] = []
        reply: Answer = lambda _: faulty[0] if faulty else s3.endpoint  # noqa: E731
        with odd_server(reply) as server, caller(place.model_copy(update={"endpoint": server.endpoint}), tokens, monkeypatch) as api:
            assert api.get("/readyz").status_code == 200
            faulty.append("403 AccessDenied")
            refused = api.get("/readyz")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage")
            assert api.get("/livez").status_code == 200
            faulty.clear()
            assert api.get("/readyz").status_code == 200

    def test_damage_is_told_before_a_byte_goes_out(
        self, s3: S3Server, place: BlobSettings, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with caller(place, tokens, monkeypatch) as api:
            artifact = f"/v1/artifacts/{finish(api).artifact_id}"
            (entry,) = [each for each in s3.store(place, tmp_path / "look").listing() if each.size_bytes == len(b"# router")]
            name = entry.digest.removeprefix("sha256:")
            s3.client.put_object(Bucket=str(place.bucket), Key=f"{place.prefix}{name[:2]}/{name[2:]}", Body=b"# Router")
            for copy in (get_settings().home / "blob-cache").rglob(name[2:]):
                copy.unlink()
            for path in ("content", "files/README.md"):
                reply = api.get(f"{artifact}/{path}")
                assert (reply.status_code, reply.json()["error"]["code"]) == (500, "artifact_corrupt")
