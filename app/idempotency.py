"""`Idempotency-Key`: the same key and body again get the stored reply, not a second object, and no second answer of an LM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Annotated, TypeVar
from uuid import uuid4

import structlog
from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.auth import AnyCaller
from app.body import JSON_TYPE
from app.deps import SessionDep
from app.errors import ApiError
from distill.catalog import idempotency
from distill.db import Session, unit_of_work
from distill.errors import Conflict

log = structlog.get_logger(__name__)

T = TypeVar("T")
KeyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="The same key and body again get the stored reply"),
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

    def __init__(self, request: Request, session: SessionDep, caller: AnyCaller, key: KeyHeader = None) -> None:
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
        asked = _asked(self._request, self._project_id, self._key, body_digest)
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
                stored = _stored(session, _asked(self._request, self._project_id, self._key, body_digest))
            if stored:
                return _response(stored, replayed=True)
        prepared = prepare()
        return self.reply(lambda: make(prepared), body_digest)


class OncePaid:
    """Runs a request that is answered by an LM, and leaves nothing else behind, at most once per key. The reply is stored when it is there.

    A process that dies in between leaves the key held for some minutes, and then free: what was asked of the LM is lost with it.
    """

    def __init__(self, request: Request, caller: AnyCaller, key: KeyHeader = None) -> None:
        self._request = request
        self._project_id = caller.project_id
        self._key = key

    async def reply(self, make: Callable[[], Awaitable[Response]]) -> Response:
        """The stored reply, or that of `make()`, which has read the body; when it raises, the key is free again. Raises as `Once.reply`."""
        if self._key is None:
            return await make()
        asked = _asked(self._request, self._project_id, self._key)
        if stored := await run_in_threadpool(_claimed, asked, self._owner):
            return _response(stored, replayed=True)
        try:
            made = await make()
        except (Exception, asyncio.CancelledError):
            # A server that stops cancels what runs, and may do so again while this is waited for: the loop's own threads are not cut off.
            let_go = partial(_end, lambda session: idempotency.release(session, asked, self._owner))
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, let_go))
            raise
        await run_in_threadpool(_end, lambda session: idempotency.keep(session, asked, self._owner, _kept(made)))
        return made

    @property
    def _owner(self) -> str:
        """The same while the request is run again: see `app.repeats`."""
        owner: str = self._request.scope["state"].setdefault("idempotency_owner", uuid4().hex)
        return owner


def _asked(request: Request, project_id: str, key: str, body_digest: str | None = None) -> idempotency.Request:
    scope = request.scope
    parts = [scope["query_string"], (body_digest or "").encode(), b"" if body_digest else getattr(request, "_body", b"")]
    digest = sha256(b"\0".join(parts)).hexdigest()
    return idempotency.Request(project_id, f"{scope['method']} {scope['path']}", key, digest)


def _stored(session: Session, asked: idempotency.Request) -> idempotency.Answer | None:
    return _told(lambda: idempotency.begin(session, asked))


def _claimed(asked: idempotency.Request, owner: str) -> idempotency.Answer | None:
    with unit_of_work("api") as session:
        return _told(lambda: idempotency.claim(session, asked, owner))


def _told(look: Callable[[], idempotency.Answer | None]) -> idempotency.Answer | None:
    try:
        return look()
    except Conflict as error:
        raise ApiError(409, error.code, error.message, headers={"retry-after": "1"}) from None


def _end(work: Callable[[Session], None]) -> None:
    """What an LM has answered goes out even where it cannot be stored."""
    try:
        with unit_of_work("api") as session:
            work(session)
    except Exception:
        log.warning("idempotency_key_stays_held", exc_info=True)


def _kept(made: Response) -> idempotency.Answer:
    kind = made.headers.get("content-type", JSON_TYPE)
    return idempotency.Answer(made.status_code, bytes(made.body).decode(), {"content-type": kind})


def _answer(made: Made) -> idempotency.Answer:
    return idempotency.Answer(made.status, made.body.model_dump_json(), {"location": made.location})


def _response(answer: idempotency.Answer, replayed: bool = False) -> Response:
    headers = {**answer.headers, **({"idempotent-replayed": "true"} if replayed else {})}
    return Response(answer.body, answer.status, headers=headers, media_type=JSON_TYPE)


OnceDep = Annotated[Once, Depends()]
OncePaidDep = Annotated[OncePaid, Depends()]
