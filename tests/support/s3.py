"""An S3-compatible server on this machine, moto's, as a process of its own."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.settings import BlobSettings
from distill.storage.cache import Cache
from distill.storage.s3 import S3Store, connect
from stack.network import LOOPBACK, free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ACCESS_KEY, SECRET_KEY = "AKIACANARY0123456789", "canary/of/the/secret/key/of/the/bucket"
_START_SECONDS = 60.0
_numbers = count()


@dataclass
class S3Server:
    endpoint: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The keys, for whoever opens one of its buckets."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def settings(self, **changes: Any) -> BlobSettings:
        """A new bucket."""
        name = f"bucket-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return self.place(bucket=name, **changes)

    def place(self, **changes: Any) -> BlobSettings:
        """A bucket that may not be there."""
        usual = {"prefix": "production", "endpoint": self.endpoint, "region": "us-east-1", "timeout_seconds": 30}
        return BlobSettings(**{**usual, **changes})

    def store(self, settings: BlobSettings, cache: Path, most_bytes: float = 1e9) -> S3Store:
        assert settings.bucket is not None
        return S3Store(self.client, settings.bucket, settings.prefix, Cache(cache, most_bytes))

    @cached_property
    def client(self) -> "S3Client":
        """As the server's own are. Its keys are read from the environment at the first call."""
        return connect(self.place(bucket="any"))


@contextmanager
def s3_server() -> Iterator[S3Server]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        _wait_for(f"http://{LOOPBACK}:{port}/moto-api/", process)
        yield S3Server(f"http://{LOOPBACK}:{port}")
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline, pause = time.monotonic() + _START_SECONDS, threading.Event()
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        pause.wait(0.05)
    raise AssertionError("the S3 server did not start")
