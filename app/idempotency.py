"""`Idempotency-Key`: the same key and body again get the stored reply, not a second object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from app.auth import Writer
from app.deps import SessionDep
from app.errors import ApiError
from distill.catalog import idempotency
from distill.db import Session, unit_of_work
from distill.errors import Conflict

T = TypeVar("T")
KeyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="The same key again makes no second object"),
]


@dataclass(frozen=True)
class Made:
    """What a creating request answers with. `replay` is what is kept for the same request again, where `body` must not be."""

    body: BaseModel
    location: str
    status: int = 201
    replay: BaseModel | None = None


class Once:
    """Runs a creating request at most once per key. The reply is stored in the request's own transaction."""

    def __init__(self, request: Request, session: SessionDep, caller: Writer, key: KeyHeader = None) -> None:
        self._request = request
        self._session: Session = session
        self._project_id = caller.project_id
        self._key = key

    def reply(self, make: Callable[[], Made], body_digest: str | None = None) -> Response:
        """The stored reply, or that of `make()`. `body_digest` stands for a body that was not read as JSON.

        Raises:
            ApiError: 409 while the first request with this key runs.
            Invalid: the key was used with another body.
        """
        if self._key is None:
            return _response(_answer(make()))
        asked = self._asked(self._key, body_digest)
        if stored := _stored(self._session, asked):
            return _response(stored, replayed=True)
        made = make()
        idempotency.finish(self._session, asked, _answer(made if made.replay is None else replace(made, body=made.replay)))
        return _response(_answer(made))

    def reply_after(self, prepare: Callable[[], T], make: Callable[[T], Made], body_digest: str | None = None) -> Response:
        """The stored reply, or that of `make(prepare())`. `prepare` may take long: it runs before the request's transaction begins.

        Two requests with one key at once may both prepare; one of them makes. Raises as `reply`.
        """
        if self._key is not None:
            with unit_of_work("api") as session:
                stored = _stored(session, self._asked(self._key, body_digest))
            if stored:
                return _response(stored, replayed=True)
        prepared = prepare()
        return self.reply(lambda: make(prepared), body_digest)

    def _asked(self, key: str, body_digest: str | None) -> idempotency.Request:
        scope = self._request.scope
        parts = [scope["query_string"], (body_digest or "").encode(), b"" if body_digest else getattr(self._request, "_body", b"")]
        digest = sha256(b"\0".join(parts)).hexdigest()
        return idempotency.Request(self._project_id, f"{scope['method']} {scope['path']}", key, digest)


def _stored(session: Session, asked: idempotency.Request) -> idempotency.Answer | None:
    try:
        return idempotency.begin(session, asked)
    except Conflict as error:
        raise ApiError(409, error.code, error.message, headers={"retry-after": "1"}) from None


def _answer(made: Made) -> idempotency.Answer:
    return idempotency.Answer(made.status, made.body.model_dump_json(), {"location": made.location})


def _response(answer: idempotency.Answer, replayed: bool = False) -> Response:
    headers = {**answer.headers, **({"idempotent-replayed": "true"} if replayed else {})}
    return Response(answer.body, answer.status, headers=headers, media_type="application/json")


OnceDep = Annotated[Once, Depends()]
