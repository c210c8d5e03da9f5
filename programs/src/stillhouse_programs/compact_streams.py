"""Streaming of compact answers: dspy's StreamListener knows the marks of dspy's own prompt adapters, and compact answers have none.

A listener of a predictor that is about to be asked with compact prompts is given the two methods here until its stream ends.
"""

from collections.abc import Mapping
from typing import Any

import dspy
from dspy.streaming import StreamResponse

from stillhouse_programs.compact_text import text_so_far

Fields = Mapping[str, Any]


class _Listening:
    """What a listener hears of one field: pieces which, put together, are the text that the answer is parsed from."""

    def __init__(self, listener: Any, fields: Fields) -> None:
        self._listener = listener
        self._fields = fields
        self._answer = self._sent = ""
        self._ended = False

    def receive(self, chunk: Any) -> Any:
        """Return the next piece of the field, or None. Takes the place of StreamListener.receive."""
        choices = getattr(chunk, "choices", None)
        if not choices or (self._listener.stream_end and not self._listener.allow_reuse):
            return None
        if self._ended:
            self._answer, self._sent, self._ended, self._listener.stream_end = "", "", False, False
        self._ended = choices[0].finish_reason is not None
        kind: Any = self._listener._output_type
        beside_text = getattr(kind, "is_streamable", None)  # of dspy's own types, such as native reasoning
        if beside_text is not None and beside_text() and (piece := kind.parse_stream_chunk(chunk)):
            return self._response(piece)
        self._answer += choices[0].delta.content or ""
        return self._next()

    def finalize(self) -> Any:
        """Return the last piece of the field, or None, and give the listener its own methods back."""
        del self._listener.receive, self._listener.finalize
        self._ended = True
        return self._next()

    def _next(self) -> Any:
        if self._listener.stream_end or self._listener.signature_field_name not in self._fields:
            return None
        text, complete = text_so_far(self._answer, self._listener.signature_field_name, self._fields, self._ended)
        piece, self._sent = text[len(self._sent) :], text
        self._listener.stream_start = self._listener.stream_start or bool(text)
        self._listener.stream_end = complete and self._listener.stream_start
        return self._response(piece) if piece or self._listener.stream_end else None

    def _response(self, piece: str) -> Any:
        return StreamResponse(
            self._listener.predict_name, self._listener.signature_field_name, piece, is_last_chunk=self._listener.stream_end
        )


def listen(fields: Fields) -> None:
    """Have the listeners of the predictor that is being asked read answers with these `fields`."""
    asked = dspy.settings.caller_predict
    if dspy.settings.send_stream is None or asked is None:
        return
    for listener in dspy.settings.stream_listeners or []:
        if listener.predict is asked and "receive" not in vars(listener):
            listening = _Listening(listener, fields)
            listener.receive, listener.finalize = listening.receive, listening.finalize
