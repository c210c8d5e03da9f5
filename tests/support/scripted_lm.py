"""An OpenAI-compatible server on a loopback port whose answers a test writes down.

    with ScriptedLM(answer=lambda ask: {"category": "billing"}) as lm:
        ...  # base URL lm.url; afterwards lm.calls, lm.peak_in_flight

An answer is a dict of output fields (written in the format that the prompt asks for: chat, JSON or XML), a str (sent as it is), or one of
`Fail`, `HangUp`, `Hang`, `Drip`, `BreakOff`, `Trickle`, `CutShort`, `Raw` and `Says`. `answer` may also be a dict from a piece of the
user's message to an answer.
An outage is `lm.fault = Fail(429, retry_after=2)`, and its end `lm.fault = None`: while it is set, it is the answer to everything.
`python -m tests.support.scripted_lm --port 9000` serves the default answer: every field says its own name.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from aiohttp import web

_CHAT_REQUEST = "Respond with the corresponding output fields, starting with the field"
_JSON_REQUEST = "Respond with a JSON object in the following order of fields"
_XML_REQUEST = "Respond with the corresponding output fields wrapped in XML tags"


@dataclass(frozen=True)
class Fail:
    """An error reply in OpenAI's shape."""

    status: int
    code: str = "scripted"
    message: str = "scripted failure"
    retry_after: float | str | None = None
    param: str | None = None


@dataclass(frozen=True)
class HangUp:
    """Close the connection instead of answering."""


@dataclass(frozen=True)
class Hang:
    """Never answer."""


@dataclass(frozen=True)
class Drip:
    """Answer a streaming request word by word with a pause between, or a plain one after the pauses."""

    text: str
    pause_seconds: float


@dataclass(frozen=True)
class BreakOff:
    """Answer a streaming request word by word, then with half an event, and close the connection."""

    text: str


@dataclass(frozen=True)
class Trickle:
    """Begin a plain answer at once and send its bytes in `pieces`, with a pause before each but the first."""

    text: str
    pause_seconds: float
    pieces: int = 8


@dataclass(frozen=True)
class CutShort:
    """Begin a plain answer, send half of its bytes, and close the connection."""

    text: str = "never whole"


@dataclass(frozen=True)
class Raw:
    """Bytes as they are, with status 200: no chat completion."""

    body: bytes


@dataclass(frozen=True)
class Says:
    """A whole assistant message: tool calls or reasoning beside its text."""

    message: dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """One request. `outputs` are the fields asked for, `inputs` the fields of the last user message (chat format), `n` counts from 0."""

    n: int
    body: dict[str, Any]
    model: str
    messages: list[dict[str, Any]]
    text: str
    outputs: list[str]
    inputs: dict[str, str]


Answer = str | Mapping[str, Any] | Fail | HangUp | Hang | Drip | BreakOff | Trickle | CutShort | Raw | Says
Answerer = Callable[[Ask], Answer]


@dataclass(frozen=True)
class Call:
    """What is remembered of a request: times are `time.monotonic()` seconds. `status` is None where the caller hung up first."""

    digest: str
    body: dict[str, Any]
    headers: dict[str, str]
    asked_at: float
    replied_at: float
    status: int | None = 200


def echo(ask: Ask) -> Answer:
    """Every field answers with its own name."""
    return {name: name for name in ask.outputs}


@dataclass
class ScriptedLM:
    """The server, in a thread of its own. `latency` is in seconds; `models` is what /v1/models lists; `api_key` refuses all other keys;
    with `hold_until` no answer goes out before that many requests were in flight at once, with `hold_from` none to that request
    (counted from 0) and to those after it, until the test takes it back; without `tells_usage` an answer does not say what it took."""

    answer: Answerer | Mapping[str, Answer] = echo
    latency: float = 0.0
    models: tuple[str, ...] = ("scripted",)
    api_key: str | None = None
    hold_until: int = 0
    hold_from: int | None = None
    tells_usage: bool = True
    port: int = 0
    fault: Fail | HangUp | Hang | None = None
    calls: list[Call] = field(default_factory=list)
    in_flight: int = 0
    peak_in_flight: int = 0
    asked: int = 0

    @property
    def url(self) -> str:
        """Base URL, /v1 included."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(started,), name="scripted-lm", daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def wait_for_calls(self, count: int, timeout_seconds: float = 60.0) -> None:
        """Block until `count` requests have come in. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_seconds
        pause = threading.Event()
        while self.asked < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.asked} of {count} calls came in")
            pause.wait(0.005)

    def catch_up(self, timeout_seconds: float = 60.0) -> None:
        """Block until all that callers sent who are gone is in `calls`. Raises TimeoutError."""
        for _ in range(2):  # what was sent before the first question has been read before the second is answered
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=timeout_seconds) as reply:
                reply.read()
        deadline, pause = time.monotonic() + timeout_seconds, threading.Event()
        while self.in_flight:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.in_flight} calls are still in flight")
            pause.wait(0.005)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        application = web.Application(client_max_size=64 * 1024 * 1024)
        self.add_routes(application.router)
        server = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", self.port, backlog=4096)
        await site.start()
        self.port = server.addresses[0][1]
        started.set()
        await self._stop.wait()
        await server.cleanup()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._chat)
        router.add_get("/v1/models", self._models)
        router.add_get("/health", self._health)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked_at = time.monotonic()
        raw = await request.read()
        if self.api_key is not None and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return _error(Fail(401, "invalid_api_key", "wrong key"))
        body = json.loads(raw)
        ask = _ask(self.asked, body)
        self.asked += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        status = None
        try:
            while self._holds(ask.n):
                await asyncio.sleep(0.01)
            if self.latency:
                await asyncio.sleep(self.latency)
            reply = await self._reply(request, ask)
            status = reply.status
            return reply
        finally:
            self.in_flight -= 1
            digest = hashlib.sha256(raw).hexdigest()
            self.calls.append(Call(digest, body, dict(request.headers), asked_at, time.monotonic(), status))

    def _holds(self, n: int) -> bool:
        return self.peak_in_flight < self.hold_until or (self.hold_from is not None and n >= self.hold_from)

    async def _reply(self, request: web.Request, ask: Ask) -> web.StreamResponse:
        answer = self.fault or (self.answer(ask) if callable(self.answer) else _look_up(self.answer, ask))
        if isinstance(answer, Fail):
            return _error(answer)
        if isinstance(answer, HangUp):
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if isinstance(answer, Hang):
            await self._stop.wait()
            return web.Response(status=503)
        if isinstance(answer, Says):
            return web.json_response(_completion(ask, "", answer.message))
        if isinstance(answer, Raw):
            return web.Response(body=answer.body, content_type="application/json")
        if isinstance(answer, CutShort):
            return await _cut_short(request, ask, answer)
        if isinstance(answer, BreakOff):
            return await _break_off(request, ask, answer)
        if isinstance(answer, Trickle):
            return await _trickle(request, ask, answer)
        drip = answer if isinstance(answer, Drip) else Drip(answer if isinstance(answer, str) else write(ask, answer), 0.0)
        if ask.body.get("stream"):
            return await _stream(request, ask, drip)
        await asyncio.sleep(drip.pause_seconds * len(drip.text.split(" ")))
        body = _completion(ask, drip.text)
        return web.json_response(body if self.tells_usage else {name: part for name, part in body.items() if name != "usage"})


def complete(answer: Answerer, n: int, body: dict[str, Any]) -> dict[str, Any]:
    """The body of the reply, without a server. `answer` must give fields or text."""
    ask = _ask(n, body)
    given = answer(ask)
    return _completion(ask, given if isinstance(given, str) else write(ask, cast("Mapping[str, Any]", given)))


def write(ask: Ask, fields: Mapping[str, Any]) -> str:
    """The fields in the format that the prompt asks for."""
    if _JSON_REQUEST in ask.text:
        return json.dumps(dict(fields), indent=2)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    if _XML_REQUEST in ask.text:
        return "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in texts.items())
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()) + "\n\n[[ ## completed ## ]]\n"


def _look_up(table: Mapping[str, Answer], ask: Ask) -> Answer:
    return next((answer for piece, answer in table.items() if piece in ask.text), Fail(400, "no_script", "no scripted answer"))


def _ask(n: int, body: dict[str, Any]) -> Ask:
    messages = body["messages"]
    content = messages[-1]["content"]
    parts = content if isinstance(content, list) else []
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in parts if isinstance(part, dict))
    return Ask(n, body, body["model"], messages, text, _asked_fields(text), _given_fields(text))


def _asked_fields(text: str) -> list[str]:
    for request, pattern in ((_CHAT_REQUEST, r"\[\[ ## (\w+) ## \]\]"), (_JSON_REQUEST, r"`(\w+)`"), (_XML_REQUEST, r"`<(\w+)>`")):
        _, found, after = text.rpartition(request)
        if found:
            return [name for name in re.findall(pattern, after) if name != "completed"]
    return []


def _given_fields(text: str) -> dict[str, str]:
    head = text.rpartition("\n\nRespond with ")[0] or text
    pieces = re.split(r"(?:^|\n)\[\[ ## (\w+) ## \]\]\n", head)
    return {name: value.strip("\n") for name, value in zip(pieces[1::2], pieces[2::2], strict=True)}


def _usage(ask: Ask, text: str) -> dict[str, Any]:
    prompt = sum(len(str(message.get("content")).split()) for message in ask.messages)
    completion = len(text.split())
    details = {"cached_tokens": prompt // 2}
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": details}


def _completion(ask: Ask, text: str, message: Mapping[str, Any] | None = None) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **(message or {})}, "finish_reason": "stop"}
    return {"id": f"chatcmpl-{ask.n}", "object": "chat.completion", "model": ask.model, "choices": [choice], "usage": _usage(ask, text)}


def _error(fail: Fail) -> web.Response:
    asked = fail.retry_after
    headers = {} if asked is None else {"retry-after": asked if isinstance(asked, str) else f"{asked:g}"}
    body = {"error": {"message": fail.message, "type": "scripted", "code": fail.code, "param": fail.param}}
    return web.json_response(body, status=fail.status, headers=headers)


async def _trickle(request: web.Request, ask: Ask, trickle: Trickle) -> web.StreamResponse:
    body = json.dumps(_completion(ask, trickle.text)).encode()
    response = web.StreamResponse(headers={"content-type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    size = -(-len(body) // trickle.pieces)
    for start in range(0, len(body), size):
        if start:
            await asyncio.sleep(trickle.pause_seconds)
        await response.write(body[start : start + size])
    return response


async def _cut_short(request: web.Request, ask: Ask, cut: CutShort) -> web.StreamResponse:
    body = json.dumps(_completion(ask, cut.text)).encode()
    response = web.StreamResponse(headers={"content-type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


async def _break_off(request: web.Request, ask: Ask, broken: BreakOff) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for word in re.findall(r"\S+\s*|\s+", broken.text):
        await response.write(_piece(ask, word))
    await response.write(_piece(ask, "lost")[:30])
    assert request.transport is not None
    request.transport.close()
    return response


def _piece(ask: Ask, word: str) -> bytes:
    chunk = {"id": f"chatcmpl-{ask.n}", "model": ask.model, "choices": [{"index": 0, "delta": {"content": word}}]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


async def _stream(request: web.Request, ask: Ask, drip: Drip) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for word in re.findall(r"\S+\s*|\s+", drip.text):
        await response.write(_piece(ask, word))
        await asyncio.sleep(drip.pause_seconds)
    last = {"id": f"chatcmpl-{ask.n}", "model": ask.model, "choices": [], "usage": _usage(ask, drip.text)}
    await response.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())
    return response


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve scripted answers: every output field says its own name.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    arguments = parser.parse_args()
    with ScriptedLM(port=arguments.port, latency=arguments.latency) as lm:
        print(lm.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
