"""Asking a model that the gateway takes, word by word. OpenAI's clients can do more, and work too: the address is OpenAI-shaped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from stillhouse._exceptions import APIConnectionError, APIError
from stillhouse._lines import lines, lines_async
from stillhouse._raw import many_responses
from stillhouse._request import Call
from stillhouse._sse import Decoder
from stillhouse.resources.base import AsyncResource, Resource

Messages = Sequence[Mapping[str, Any]]
_SECONDS = 180.0
"""Between two pieces, the first one included: a model may still have to be loaded."""


def _call(model: str, messages: Messages, options: Mapping[str, Any]) -> Call[None]:
    body = {**options, "model": model, "messages": [dict(message) for message in messages], "stream": True}
    headers = {"Accept": "text/event-stream"}
    return Call("POST", "/v1/chat/completions", lambda _: None, json=body, headers=headers, timeout=_SECONDS)


class _Answer:
    """Fed with the lines of the stream."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._done = False

    def feed(self, line: str) -> str:
        """The text that a line brings, mostly none. Raises APIError for an answer that broke off."""
        message = self._decoder.feed(line.rstrip("\r\n"))
        if message is None:
            return ""
        if message.data == "[DONE]":
            self._done = True
            return ""
        body = json.loads(message.data)
        if "error" in body:
            raise APIError(str(body["error"].get("message") or "the model's answer broke off"))
        return "".join(choice.get("delta", {}).get("content") or "" for choice in body.get("choices", []))

    def end(self) -> None:
        if not self._done:
            raise APIConnectionError("the model's answer broke off")


class Chat(Resource):
    @many_responses
    def stream(self, model: str, messages: Messages, **options: Any) -> Iterator[str]:
        """The pieces of the answer as they come; `options` are OpenAI's (`temperature`, `max_tokens`, …)."""
        answer = _Answer()
        with self._client.stream(_call(model, messages, options)) as response:
            for line in lines(response.iter_text()):
                if text := answer.feed(line):
                    yield text
        answer.end()


class AsyncChat(AsyncResource):
    @many_responses
    async def stream(self, model: str, messages: Messages, **options: Any) -> AsyncIterator[str]:
        """The pieces of the answer as they come; see `Chat.stream`."""
        answer = _Answer()
        async with self._client.stream(_call(model, messages, options)) as response:
            async for line in lines_async(response.aiter_text()):
                if text := answer.feed(line):
                    yield text
        answer.end()
