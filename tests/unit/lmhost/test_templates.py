"""A chat template that loops costs its request; the LM host goes on, for others meanwhile and for the same one afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from engines import chat_template
from engines.lmhost.server import create_app
from engines.rendering import Bounds, Renderer
from tests.unit.lmhost.asker import MakeEngine, chat

LOOPS = "{% if 'loop' in messages[0].content %}{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{% endif %}"
REQUESTS_MEANWHILE = 20


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Renderer]:
    made = Renderer(Bounds(seconds=0.5))
    monkeypatch.setattr(chat_template, "_RENDERER", made)
    yield made
    made.close()


class TestLoopingTemplate:
    def test_costs_its_request(self, make_engine: MakeEngine, renderer: Renderer) -> None:
        engine = make_engine()
        engine.tokenizer.chat_template = LOOPS + engine.tokenizer.chat_template
        app = create_app(engine, None)

        async def ask() -> list[httpx.Response]:
            async with client(app) as http:
                return [
                    await http.post("/v1/chat/completions", json=body(engine.base.id, text)) for text in ("loop", "Who?", "loop no more")
                ]

        first, second, third = asyncio.run(ask())
        why = "The chat template refuses the messages: it takes more than 0.5 s of processor time"
        assert [(reply.status_code, reply.json()["error"]["message"]) for reply in (first, third)] == [(400, why)] * 2
        assert second.status_code == 200

    def test_holds_up_nobody_who_asks_for_something_else(self, make_engine: MakeEngine, renderer: Renderer) -> None:
        """The process that renders stands still: whoever needs it waits, and nobody else."""
        engine = make_engine()
        app = create_app(engine, None)
        assert renderer._process is not None
        rendering = psutil.Process(renderer._process._child.pid)

        async def ask() -> tuple[bool, list[int], int]:
            async with client(app) as http:
                assert (await http.post("/v1/chat/completions", json=body(engine.base.id, "known"))).status_code == 200
                rendering.suspend()
                stuck = asyncio.create_task(http.post("/v1/chat/completions", json=body(engine.base.id, "new")))
                others = list[int]()
                for _ in range(REQUESTS_MEANWHILE):
                    others.append((await http.get("/health")).status_code)
                others.append((await http.post("/v1/chat/completions", json=body(engine.base.id, "known"))).status_code)
                is_stuck = not stuck.done()
                rendering.resume()
                return is_stuck, others, (await stuck).status_code

        assert asyncio.run(ask()) == (True, [200] * (REQUESTS_MEANWHILE + 1), 200)

    def test_a_renderer_that_does_not_start_is_no_fault_of_the_request(
        self, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        engine = make_engine()
        app = create_app(engine, None)
        (tmp_path / "program.py").write_text("raise SystemExit(3)")
        monkeypatch.setattr(chat_template, "_RENDERER", Renderer(program=tmp_path / "program.py"))

        async def ask() -> httpx.Response:
            async with client(app) as http:
                return await http.post("/v1/chat/completions", json=body(engine.base.id, "Who?"))

        reply = asyncio.run(ask())
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "renderer_unavailable")


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lm-host", timeout=120)


def body(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": chat(text), "max_tokens": 2, "temperature": 0}
