"""Blobs in a bucket of an S3-compatible server, under the same names as in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import boto3
import structlog
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import HTTPClientError, IncompleteReadError

from distill.errors import StorageError, StorageUnavailable, StorageUnreachable
from distill.storage.base import CHUNK, BlobStore, BlobWriter, Stored, damaged, hexadecimal, missing
from distill.storage.cache import Cache
from distill.storage.s3_errors import Taken, bucket_errors

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from distill.settings import BlobSettings

log = structlog.get_logger(__name__)
_OWNER = "store-id"
_PART = 8 << 20
# One part at a time and in this thread: what a transfer holds in memory is one part, whatever the blob's size.
_UP = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, use_threads=False)
_TRIES = 3


class S3Store(BlobStore):
    """Blobs under `prefix/ab/cdef…`. Each is written to this machine's cache first, since its name is known only at its end.

    `passing` is told where a write stands; tests die there.
    """

    def __init__(
        self, client: S3Client, bucket: str, prefix: str, cache: Cache, passing: Callable[[str], None] = lambda point: None
    ) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._cache, self._passing = cache, passing

    def __str__(self) -> str:
        return f"the blob store in bucket {self._bucket}" + (f" under {self._prefix}" if self._prefix else "")

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        with self._cache.writer() as out:
            yield out
            self._passing("blob.writing")
        self._passing("blob.synced")
        self._upload(out.digest)
        self._passing("blob.placed")

    def open(self, digest: str) -> BinaryIO:
        self._key(digest)  # nothing but a digest is a place in the cache
        return self._cache.open(digest) or self._fetched(digest)

    def path(self, digest: str) -> Path:
        self.open(digest).close()
        return self._cache.place(digest)

    def stat(self, digest: str) -> Stored:
        key = self._key(digest)
        with self._reading(digest):
            found = self._client.head_object(Bucket=self._bucket, Key=key)
        return Stored(digest, found["ContentLength"], found["LastModified"].timestamp())

    def listing(self) -> Iterator[Stored]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        with bucket_errors():
            for page in pages:
                for found in page.get("Contents", ()):
                    digest = "sha256:" + found["Key"].removeprefix(self._prefix).replace("/", "")
                    with suppress(StorageError):  # not ours
                        hexadecimal(digest)
                        yield Stored(digest, found["Size"], found["LastModified"].timestamp())

    def remove(self, digest: str) -> None:
        key = self._key(digest)
        with bucket_errors():
            self._client.delete_object(Bucket=self._bucket, Key=key)
        self._cache.drop(digest)

    def clear_unfinished(self, before: float) -> int:
        """What was uploaded of a blob in parts that its writer has not put together."""
        removed, refused = 0, list[StorageUnavailable]()
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
        with bucket_errors():
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"].timestamp() < before:
                        try:
                            self._abort(upload["Key"], upload["UploadId"])
                            removed += 1
                        except StorageUnreachable:
                            raise
                        except StorageUnavailable as error:
                            refused.append(error)
        if refused:
            log.warning("unfinished blobs not removed", number=len(refused), error=str(refused[0]))
        return removed

    def _abort(self, key: str, upload: str) -> None:
        """Remove the parts of an upload; one that has ended meanwhile has none."""
        with bucket_errors(), suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)

    def owner(self) -> str | None:
        with bucket_errors():
            try:
                reply = self._client.get_object(Bucket=self._bucket, Key=self._prefix + _OWNER)
            except self._client.exceptions.NoSuchKey:
                return None
            with closing(reply["Body"]) as body:
                return body.read().decode("ascii").strip()

    def claim_for(self, store_id: str) -> str:
        with suppress(Taken), bucket_errors():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + _OWNER, Body=store_id.encode(), IfNoneMatch="*")
        return self.owner() or store_id

    def _key(self, digest: str) -> str:
        name = hexadecimal(digest)
        return f"{self._prefix}{name[:2]}/{name[2:]}"

    @contextmanager
    def _reading(self, digest: str) -> Iterator[None]:
        with bucket_errors():
            try:
                yield
            except self._client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                self._client.head_bucket(Bucket=self._bucket)  # it may be the bucket that is not there: a HEAD does not say
                raise missing(digest) from None

    def _upload(self, digest: str) -> None:
        file = self._cache.open(digest)
        if file is None:
            raise missing(digest)
        try:
            with file, bucket_errors():
                self._client.upload_fileobj(file, self._bucket, self._key(digest), Config=_UP)
        except BaseException:
            self._cache.drop(digest)  # what the bucket does not hold is not to be had
            raise

    def _download(self, key: str, out: BlobWriter) -> None:
        """A stream that breaks off is taken up where it broke: the whole is held against its digest in any case."""
        for tries_left in reversed(range(_TRIES)):
            try:
                reply = self._client.get_object(Bucket=self._bucket, Key=key, **_from(out.size_bytes))
                with closing(reply["Body"]) as body:
                    for chunk in body.iter_chunks(CHUNK):
                        out.write(chunk)
                return
            except (HTTPClientError, IncompleteReadError):
                if not tries_left:
                    raise

    def _fetched(self, digest: str) -> BinaryIO:
        with self._cache.writer() as out:
            with self._reading(digest):
                self._download(self._key(digest), out)
            if out.digest != digest:
                raise damaged(digest)
        file = self._cache.open(digest)
        if file is None:
            raise missing(digest)
        return file


def connect(settings: BlobSettings) -> S3Client:
    """Keys are found where every program of Amazon's finds them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role."""
    limits = Config(
        connect_timeout=settings.timeout_seconds,
        read_timeout=settings.timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=32,
        # What arrives is checked by the digest that every signature holds, which servers that are not Amazon's know as well.
        s3={"payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with bucket_errors():
        return boto3.session.Session().client("s3", endpoint_url=settings.endpoint, region_name=settings.region, config=limits)


def _from(offset: int) -> dict[str, Any]:
    """A range of nothing at all is refused, so the whole of a blob, which may be empty, is asked for without one."""
    return {"Range": f"bytes={offset}-"} if offset else {}
