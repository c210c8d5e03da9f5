"""`python -m tests.chaos.lm_host --port 9000 --slow FILE`: a small LM host for tests to kill.

It has vLLM's routes for LoRA adapters and sleep. It forgets its LoRA adapters when it sleeps, and when it ends. While `FILE` is there,
it neither falls asleep nor wakes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tests.chaos.jobs import teach
from tests.support.scripted_lm import Answer, Ask, Fail, ScriptedLM

LOOK_SECONDS = 0.02


@dataclass
class LmHost(ScriptedLM):
    slow: Path = Path("slow")
    asleep: bool = False

    def add_routes(self, router: web.UrlDispatcher) -> None:
        super().add_routes(router)
        router.add_post("/v1/load_lora_adapter", self._load)
        router.add_post("/v1/unload_lora_adapter", self._unload)
        router.add_post("/sleep", self._sleep)
        router.add_post("/wake_up", self._wake_up)
        router.add_get("/is_sleeping", self._is_sleeping)

    def says(self, ask: Ask) -> Answer:
        if self.asleep:
            return Fail(503, "sleeping", "the host sleeps")
        if ask.model not in self.models:
            return Fail(404, "model_not_found", f"no model {ask.model}")
        return teach(ask)

    async def _load(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        if self.asleep or not (Path(asked["lora_path"]) / "adapter_model.safetensors").is_file():
            return web.Response(status=400, text="asleep" if self.asleep else "no weights")
        self.models = (*self.models, asked["lora_name"])
        return web.json_response({})

    async def _unload(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        self.models = tuple(name for name in self.models if name != asked["lora_name"])
        return web.json_response({})

    async def _sleep(self, _request: web.Request) -> web.Response:
        await self._take_time()
        self.asleep, self.models = True, self.models[:1]
        return web.json_response({})

    async def _wake_up(self, _request: web.Request) -> web.Response:
        await self._take_time()
        self.asleep = False
        return web.json_response({})

    async def _take_time(self) -> None:
        while self.slow.exists():
            await asyncio.sleep(LOOK_SECONDS)

    async def _is_sleeping(self, _request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self.asleep})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slow", type=Path, required=True)
    given = parser.parse_args()
    host = LmHost(port=given.port, models=("local/tiny",), slow=given.slow)
    host.answer = host.says
    with host:
        print("lm-host ready", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
