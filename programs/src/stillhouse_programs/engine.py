"""The LM of a runner: dspy's public `engine=` / `async_engine=` door, with OpenAI-shaped HTTP to the relay behind it.

One `RelayLM` per LM role. It holds no address and no key: the model in the body is the role's slot, the token comes with the rollout.
Retries, limits and budgets live in the relay alone. LiteLLM is never imported.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

import dspy
from dspy import lm15
from dspy.clients.call_result import CallResult
from dspy.dsp.utils.settings import settings

from stillhouse_programs import protocol
from stillhouse_programs.grammar import is_closed
from stillhouse_programs.protocol import InfrastructureError
from stillhouse_programs.recorder import CURRENT_CALL, SETTING, Answer, Recorder, SignatureType, Usage
from stillhouse_programs.relay_http import Caller, RelayUnreachable, Reply

Grammar = dict[str, Any]
DeriveGrammar = Callable[[SignatureType], Grammar]

# What dspy passes for its own use; none of it goes over the wire.
_NOT_SENT = frozenset({"rollout_id", "cache", "n", "num_generations", "prompt_cache", "stream", "model", "messages"})
_KEPT_GRAMMARS = 1000
_CONTEXT_LENGTH = "context_length_exceeded"
_BOUNDS = frozenset({"max_tokens", "max_completion_tokens"})
_REFUSALS = (400, 422)


class PreparedCall(NamedTuple):
    """One call as it goes out, and `bare` without what neither the program nor its LM asks for: a default bound, log-probabilities.

    A host refuses a prompt and a bound that exceed its context together, and one may have no log-probabilities: a refused call is sent
    again bare.
    """

    recorder: Recorder
    caller: Caller
    body: bytes
    bare: bytes | None = None


class SyncPost(Protocol):
    """Whoever carries a call to the LM and brings the reply: the relay's client in a runner, the gateway's in a caller's process."""

    def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable."""
        ...


class AsyncPost(Protocol):
    """The same for tasks."""

    async def post(self, caller: Caller, body: bytes) -> Reply:
        """Raises RelayUnreachable."""
        ...


class RelayEngine:
    """The engine of one slot, for threads. Knows the calling predictor through the recorder: its seed and its grammar differ by predictor.

    `derive_grammar` is None where answers are not constrained. `native` holds the features (`tools`, `reasoning`) that the LM has beside
    text; dspy asks the engine for them when it plans a call. `answer_tokens` bounds the answers of calls that set no bound.
    """

    def __init__(
        self,
        slot: str,
        client: SyncPost,
        derive_grammar: DeriveGrammar | None,
        native: Collection[str] = (),
        answer_tokens: int | None = None,
    ) -> None:
        self.slot = slot
        self._answer_tokens = answer_tokens
        self._wants_logprobs = True
        self.supports_function_calling = "tools" in native
        self.supports_reasoning = "reasoning" in native
        self._client = client
        self._derive_grammar = functools.lru_cache(_KEPT_GRAMMARS)(derive_grammar) if derive_grammar is not None else None

    def __deepcopy__(self, memo: dict[int, Any]) -> RelayEngine:
        return self  # programs copy their predictors; the connection stays one

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Raises InfrastructureError, or dspy.ContextWindowExceededError, which programs may handle."""
        body = _openai_body(request)
        call = self.prepare(body.pop("messages"), body)
        try:
            reply = self._client.post(call.caller, call.body)
            if (bare := self.again(call, reply)) is not None:
                reply = self._client.post(call.caller, bare)
        except RelayUnreachable as fault:
            raise call.recorder.fail(InfrastructureError("relay_lost", str(fault))) from fault
        return self.read_response(call.recorder, reply)

    def close(self) -> None:
        """dspy borrows its engines; nothing to close."""

    def prepare(self, messages: list[Any], options: dict[str, Any]) -> PreparedCall:
        """Raises RuntimeError outside of a rollout."""
        recorder = settings.get(SETTING)
        if not isinstance(recorder, Recorder):
            raise RuntimeError("a predictor was called outside of a rollout: in a thread that was started before it, or in another process")
        recorder.check_open()
        body: dict[str, Any] = {"model": self.slot, "messages": messages}
        body.update({name: value for name, value in options.items() if value is not None and name not in _NOT_SENT})
        call = CURRENT_CALL.get()
        seed = call.seed if call is not None else recorder.next_seed(None)
        if seed is not None:
            body.setdefault("seed", seed)
        added: dict[str, Any] = {}
        if call is not None and self._derive_grammar is not None:
            body["structured_outputs"] = self._derive_grammar(call.signature)
            if self._wants_logprobs and "logprobs" not in body and is_closed(call.signature):
                added["logprobs"] = True
        if self._answer_tokens is not None and body.keys().isdisjoint(_BOUNDS):
            added["max_tokens"] = self._answer_tokens
        data, caller = protocol.encode(body), recorder.caller(call, seed)
        return PreparedCall(recorder, caller, protocol.encode({**body, **added}), data) if added else PreparedCall(recorder, caller, data)

    def again(self, call: PreparedCall, reply: Reply) -> bytes | None:
        """What to send once more after a refusal, if anything. A host that has no log-probabilities is not asked for them any more."""
        if reply.status not in _REFUSALS or call.bare is None:
            return None
        self._wants_logprobs = self._wants_logprobs and not _refuses_logprobs(reply)
        return call.bare

    def read_reply(self, recorder: Recorder, reply: Reply) -> dict[str, Any]:
        """The body of a 200. Its usage and text go to the calling predictor's record."""
        if reply.status != 200:
            raise _refusal(recorder, reply)
        try:
            body = protocol.decode(reply.body)
            answer = _answer(body["choices"][0])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as fault:
            error = InfrastructureError("bad_answer", "the LM host answered with something else than a chat completion")
            raise recorder.fail(error) from fault
        body["usage"] = _said(body.get("usage"))
        recorder.answered(self.slot, _usage(body["usage"]), answer)
        reply_body: dict[str, Any] = body
        return reply_body

    def read_response(self, recorder: Recorder, reply: Reply) -> lm15.Response:
        return lm15.response_from_openai_chat(self.read_reply(recorder, reply), model=self.slot)


class AsyncRelayEngine:
    """The same engine for tasks."""

    def __init__(self, engine: RelayEngine, client: AsyncPost) -> None:
        self.engine = engine
        self._client = client

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncRelayEngine:
        return self

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Raises as RelayEngine.complete."""
        body = _openai_body(request)
        recorder, reply = await self.post(body.pop("messages"), body)
        return self.engine.read_response(recorder, reply)

    async def aclose(self) -> None:
        """dspy borrows its engines; nothing to close."""

    async def post(self, messages: list[Any], options: dict[str, Any]) -> tuple[Recorder, Reply]:
        call = self.engine.prepare(messages, options)
        try:
            reply = await self._client.post(call.caller, call.body)
            if (bare := self.engine.again(call, reply)) is not None:
                reply = await self._client.post(call.caller, bare)
        except RelayUnreachable as fault:
            raise call.recorder.fail(InfrastructureError("relay_lost", str(fault))) from fault
        return call.recorder, reply


class RelayLM(dspy.LM):
    """dspy.LM over the engine above. `acall` skips dspy's two thread hops and its two conversions for the ordinary call, with the same
    messages sent and the same outputs returned; everything else takes dspy's own way through the engine."""

    def __init__(self, slot: str, engine: RelayEngine, async_engine: AsyncRelayEngine, options: dict[str, Any]) -> None:
        # The prefix keeps a slot called `o3` from matching dspy's table of reasoning models, which would force its temperature.
        label = "stillhouse/slot." + slot.replace("/", ".")
        super().__init__(label, engine=engine, async_engine=async_engine, cache=False, num_retries=0, **options)
        self._relay = async_engine

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        options = {**self.kwargs, **kwargs}
        if not _is_ordinary(prompt, messages, options):
            return await super().acall(prompt, messages=messages, **kwargs)
        recorder, reply = await self._relay.post(messages, options)
        body = self._relay.engine.read_reply(recorder, reply)
        message = body["choices"][0]["message"]
        if message.keys() - {"role", "content", "refusal"} and any(message.get(key) for key in message.keys() - {"role", "content"}):
            return CallResult.native(lm15.response_from_openai_chat(body, model=self.model)).outputs
        return [message.get("content") or ""]


def make_lm(
    slot: str,
    options: dict[str, Any],
    clients: tuple[SyncPost, AsyncPost],
    derive_grammar: DeriveGrammar | None = None,
    native: Collection[str] = (),
    answer_tokens: int | None = None,
) -> RelayLM:
    """The LM of one role. `options` are generation options (temperature, max_tokens, top_p, …), `native` its features beside text,
    `answer_tokens` the bound where neither they nor the program set one."""
    engine = RelayEngine(slot, clients[0], derive_grammar, native, answer_tokens)
    return RelayLM(slot, engine, AsyncRelayEngine(engine, clients[1]), options)


def _is_ordinary(prompt: Any, messages: Any, options: dict[str, Any]) -> bool:
    return (
        prompt is None
        and isinstance(messages, list)
        and settings.send_stream is None
        and (options.get("n") or 1) == 1
        and not isinstance(options.get("response_format"), type)
        and not options.get("logprobs")
    )


def _openai_body(request: lm15.Request) -> dict[str, Any]:
    """dspy's request as the body that OpenAI's chat completions take: its own writer, so images and tools go as dspy sends them."""
    writer = lm15.OpenAIChatLM(api_key="-", base_url="http://relay/v1")
    body: dict[str, Any] = json.loads(writer.build_request(request, stream=False).body)
    return {**body, **(request.config.extensions or {})}


def _said(usage: Any) -> dict[str, Any]:
    """The usage of an answer, empty where it counts nonsense: the answer is good without, and dspy would make it the program's fault."""
    if not isinstance(usage, dict):
        return {}
    details = usage.get("prompt_tokens_details") or {}
    if not isinstance(details, dict):
        return {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("cached_tokens"))
    return usage if all(count is None or (type(count) is int and count >= 0) for count in counts) else {}


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(1, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, details.get("cached_tokens") or 0)


def _answer(choice: dict[str, Any]) -> Answer:
    """Reasoning has two names among LM hosts."""
    message = choice["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    tool_calls = message.get("tool_calls")
    return Answer(
        message.get("content") or "",
        choice.get("finish_reason") == "length",
        reasoning if isinstance(reasoning, str) else None,
        tool_calls if isinstance(tool_calls, list) else None,
        _logprob(choice.get("logprobs")),
    )


def _logprob(logprobs: Any) -> float | None:
    """Of the whole answer, from OpenAI's list of its tokens; None where there is none, or where it holds nonsense."""
    try:
        tokens = [float(token["logprob"]) for token in logprobs["content"]]
    except (TypeError, KeyError, ValueError):
        return None
    total = sum(tokens)
    return min(0.0, round(total, 6)) if tokens and math.isfinite(total) else None


def _refuses_logprobs(reply: Reply) -> bool:
    """Hosts name what they refuse in the error's field or in its message."""
    try:
        error = protocol.decode(reply.body)["error"]
        return "logprobs" in f"{error.get('param')} {error.get('message')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _refusal(recorder: Recorder, reply: Reply) -> BaseException:
    try:
        error = protocol.decode(reply.body)["error"]
        code, message = error.get("code"), str(error.get("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = None, f"HTTP {reply.status}"
    if code == _CONTEXT_LENGTH:
        too_long: BaseException = dspy.ContextWindowExceededError(message=message, status=reply.status, provider_code=code)
        return too_long
    return recorder.fail(InfrastructureError(reply.code or "upstream_error", message))
