"""Clients that go on through an outage: they submit, poll, wait and follow, and note what they were told."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from tests.chaos.jobs import anchors, body, odd
from tests.chaos.world import World

SUBMITTERS = 3
ROWS = 12


@dataclass
class Load:
    """From `with` to its end: three clients submit jobs, two poll, one waits with `?wait=`, two follow the first jobs' events to their end.

    Attributes:
        jobs: all that were accepted.
        told: how often each status came.
        bad: what no client should see.
    """

    world: World
    name: str
    jobs: list[str] = field(default_factory=list)
    told: Counter[int] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._headers = {"authorization": f"Bearer {self.world.keys[0]}"}
        self.world.wait_over([self.world.submit(body(anchors()))], 240)  # so that no two jobs ask at once what all share
        first = [self._submit(f"first-{n}") for n in range(2)]
        self._threads = [
            *(threading.Thread(target=self._submit_on, args=(n,)) for n in range(SUBMITTERS)),
            *(threading.Thread(target=self._poll, args=(first[n], "")) for n in range(2)),
            threading.Thread(target=self._poll, args=(first[0], "?wait=5")),
        ]
        self._followers = [threading.Thread(target=self._follow, args=(job,)) for job in first]
        for thread in (*self._threads, *self._followers):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The clients stop; those who follow a job do so until it is over."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            self.world.wait_over(self.jobs, 240)
        for thread in self._followers:
            thread.join(30)
            assert not thread.is_alive(), "a stream of events has no end"

    def _submit(self, name: str) -> str:
        job = self.world.submit(body(anchors() + odd(f"{self.name}-{name}", ROWS)))
        self.jobs.append(job)
        return job

    def _submit_on(self, client: int) -> None:
        number = 0
        while not self._over.wait(3):
            self._submit(f"{client}-{number}")
            number += 1

    def _poll(self, job: str, query: str) -> None:
        with httpx.Client(headers=self._headers, timeout=30) as client:
            while not self._over.wait(0.2):
                self._note(client.get(f"{self._url(job)}{query}"))

    def _follow(self, job: str) -> None:
        """As a client of event streams does: it connects anew where it was, and again when it is asked to come later."""
        seen, ended = 0, False
        with httpx.Client(headers=self._headers, timeout=30) as client:
            while not ended:
                headers = {"last-event-id": str(seen), "accept": "text/event-stream"}
                with contextlib.suppress(httpx.TransportError), client.stream("GET", f"{self._url(job)}/events", headers=headers) as stream:
                    if not self._note(stream):
                        threading.Event().wait(0.5)
                        continue
                    for name, value in _fields(stream):
                        if name == "id":
                            if int(value) != seen + 1:
                                self.bad.append(f"event {value} of {job} after {seen}")
                            seen = int(value)
                        ended = ended or (name, value) == ("event", "done")

    def _note(self, reply: httpx.Response) -> bool:
        """Whether it was answered. What is no answer says when to come back."""
        self.told[reply.status_code] += 1
        if reply.status_code != 200 and (reply.status_code != 503 or "retry-after" not in reply.headers):
            self.bad.append(f"{reply.url.path}: {reply.status_code}")
        return reply.status_code == 200

    def _url(self, job: str) -> str:
        return f"{self.world.stack.base_url}/v1/compile_jobs/{job}"


def _fields(stream: httpx.Response) -> Iterator[tuple[str, str]]:
    for line in stream.iter_lines():
        name, _, value = line.partition(": ")
        yield name, value
