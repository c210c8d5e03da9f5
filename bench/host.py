"""The LM host as a process, and plain requests to it, some at a time."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

from bench.cpu import cpu_seconds
from bench.session import Session
from distill.execute.lm_host import LmHostClient
from stack.crew import Crew
from stack.network import LOOPBACK, free_port
from stack.parts import Part, reachable
from stack.plan import lm_host_command

Json = dict[str, Any]
KEY = "bench"
MAX_TOKENS = 32


@dataclass(frozen=True)
class Answers:
    """What came back for some prompts, in their order; wall and CPU seconds of the host for all of them."""

    texts: list[str]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Host:
    """A host that is ready. `pid` leads its process tree."""

    base_model: str
    port: int
    pid: int

    def load(self, name: str, folder: Path) -> None:
        LmHostClient(f"http://{LOOPBACK}:{self.port}/v1", KEY).load(name, folder)

    def ask(
        self,
        model: str,
        prompts: Sequence[list[Json]],
        in_flight: int,
        structured: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Answers:
        """Answers to all prompts, greedy unless `options` say otherwise; the first of several samples. RuntimeError for an error reply."""
        extra = {**({"structured_outputs": structured} if structured else {}), **(options or {})}
        bodies = [self._body(model, prompt) | extra for prompt in prompts]
        shares = [range(place, len(bodies), in_flight) for place in range(min(in_flight, len(bodies)))]
        before, began = cpu_seconds(self.pid), time.monotonic()
        with ThreadPoolExecutor(len(shares)) as pool:
            parts = list(pool.map(lambda share: [(place, answer) for place, answer in self._answers(bodies, share)], shares))
        seconds = time.monotonic() - began
        texts = [text for _, text in sorted(pair for part in parts for pair in part)]
        return Answers(texts, seconds, cpu_seconds(self.pid) - before)

    @contextmanager
    def evaluated(self, prompts: Sequence[list[Json]], in_flight: int) -> Iterator[list[str]]:
        """Send the prompts over and over, as calls of a job, until the block ends. Yields the list that the answers are put into."""
        bodies = [self._body(self.base_model, prompt) for prompt in prompts]
        over, answers = threading.Event(), list[str]()

        def send(first: int) -> None:
            places = takewhile(lambda _: not over.is_set(), cycle(range(first, len(bodies), in_flight)))
            answers.extend(text for _, text in self._answers(bodies, places, {"priority": "u=7"}))

        with ThreadPoolExecutor(in_flight) as pool:
            senders = [pool.submit(send, place) for place in range(in_flight)]
            try:
                yield answers
            finally:
                over.set()
        for sender in senders:
            sender.result()

    def _body(self, model: str, prompt: list[Json]) -> Json:
        return {"model": model, "messages": prompt, "temperature": 0, "max_tokens": MAX_TOKENS}

    def _answers(self, bodies: Sequence[Json], share: Iterable[int], more: Mapping[str, str] | None = None) -> Iterator[tuple[int, str]]:
        """One after another, on one connection, with `more` headers."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=600)
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **(more or {})}
        try:
            for place in share:
                connection.request("POST", "/v1/chat/completions", json.dumps(bodies[place]), headers)
                response = connection.getresponse()
                content = response.read()
                if response.status != 200:
                    raise RuntimeError(f"LM host: {response.status} {content[:300]!r}")
                yield place, json.loads(content)["choices"][0]["message"]["content"]
        finally:
            connection.close()


@contextmanager
def lm_host(session: Session, dtype: str = "float32") -> Iterator[Host]:
    """The embedded LM host on the session's base model, with all cores."""
    port = free_port()
    command = (*lm_host_command(session.base_model, LOOPBACK, port, session.threads), "--dtype", dtype)
    part = Part("lm-host", command, 1, reachable(f"http://{LOOPBACK}:{port}/health"), {"LMHOST_API_KEY": KEY}, ready_seconds=300)
    crew = Crew(session.folder("lm-host"), session.environment(), lambda _name, _line: None)
    try:
        child = crew.start(part)
        crew.wait_ready([child])
        yield Host(session.base_model, port, child.pid)
    finally:
        crew.stop()
