"""Programs whose LM answers in process: the relay's two clients, scripted."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import dspy
import orjson

from distill.rollouts.events import read_event
from stillhouse_programs.collect import Prepared, prepare_program, run_rollout
from stillhouse_programs.engine import RelayLM, make_lm
from stillhouse_programs.grammar import derive_grammar
from stillhouse_programs.prompts import make_prompt_adapter
from stillhouse_programs.protocol import encode
from stillhouse_programs.relay_http import AsyncRelayClient, Caller, Reply, SyncRelayClient
from stillhouse_programs.threads import inherit_rollouts
from tests.support.scripted_lm import Answerer, Fail, complete, echo

Json = dict[str, Any]


class ScriptedRelay:
    """Stands for both clients; keeps the bodies it was sent. `refuse` is a relay error code that every call gets."""

    def __init__(self, answer: Answerer = echo, refuse: Fail | None = None, code: str | None = None) -> None:
        self.answer = answer
        self.refuse = refuse
        self.code = code
        self.bodies: list[Json] = []
        self.tokens: list[str] = []
        self.names: list[str] = []

    def reply(self, caller: Caller, data: bytes) -> Reply:
        body = orjson.loads(data)
        self.tokens.append(caller.token)
        self.names.append(caller.call)
        self.bodies.append(body)
        if self.refuse is not None:
            error = {"error": {"code": self.refuse.code, "message": self.refuse.message}}
            return Reply(self.refuse.status, self.code, orjson.dumps(error))
        return Reply(200, None, orjson.dumps(complete(self.answer, len(self.bodies) - 1, body)))

    def lm(self, native: Collection[str] = (), answer_tokens: int | None = None, constrain: bool = False, **options: Any) -> RelayLM:
        relay = self

        class Sync:
            def post(self, caller: Caller, data: bytes) -> Reply:
                return relay.reply(caller, data)

        class Async:
            async def post(self, caller: Caller, data: bytes) -> Reply:
                await asyncio.sleep(0)
                return relay.reply(caller, data)

        clients = (cast("SyncRelayClient", Sync()), cast("AsyncRelayClient", Async()))
        grammars = functools.partial(derive_grammar, prompt_adapter=make_prompt_adapter("chat")) if constrain else None
        return make_lm("student", options, clients, grammars, native, answer_tokens)


def prepared(
    program: dspy.Module,
    relay: ScriptedRelay,
    prompt_adapter: str = "chat",
    answer_tokens: int | None = None,
    constrain: bool = False,
    **types: Any,
) -> Prepared:
    inherit_rollouts()
    program.set_lm(relay.lm(answer_tokens=answer_tokens, constrain=constrain))
    return prepare_program(program, make_prompt_adapter(prompt_adapter), types)


def rollout(ready: Prepared, seed: int | None = None, limit: float | None = 5.0, **inputs: Any) -> Json:
    """One rollout, in threads where the program needs them."""
    with ThreadPoolExecutor(2) as threads:
        trace = asyncio.run(run_rollout(ready, inputs, token="t", seed=seed, time_limit_seconds=limit, threads=threads))
    read_event(encode({"v": 1, "id": 1, "event": "trace", "index": 0, "n": 0, "trace": trace}))  # the server takes no other
    return trace


class Steps(dspy.Module):
    """A program from predictors and an async function of them: `Steps(body, a=Predict(…), …)`."""

    def __init__(self, body: Callable[..., Awaitable[Any]], **predictors: Any) -> None:
        super().__init__()
        self.body = body
        for name, predictor in predictors.items():
            setattr(self, name, predictor)

    async def aforward(self, **inputs: Any) -> Any:
        return await self.body(self, **inputs)


def called(trace: Json) -> list[str]:
    return [call["predictor"] for call in trace["calls"]]
