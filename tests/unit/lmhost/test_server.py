import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from engines.base_models import resolve
from engines.lmhost.engine import Engine, EngineOptions
from engines.lmhost.server import create_app
from tests.unit.lmhost.asker import chat

KEY = "k-1"


class Served(uvicorn.Server):
    """A server in a thread that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@pytest.fixture(scope="module")
def engine(lab: Path) -> Iterator[Engine]:
    engine = Engine(resolve(str(lab / "tiny")), EngineOptions("float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Served(uvicorn.Config(create_app(engine, KEY), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert server.listens.wait(30)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


def body(engine: Engine, **changes: Any) -> dict[str, Any]:
    return {"model": engine.base.id, "messages": chat("Who?"), "max_tokens": 8, "temperature": 0, **changes}


def complete(client: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    reply = client.post("/v1/chat/completions", json=request)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def error_of(reply: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


class TestChat:
    def test_reply_is_openai_shaped(self, client: httpx.Client, engine: Engine) -> None:
        answer = complete(client, body(engine))
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 8
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 8

    def test_cached_tokens_are_told(self, client: httpx.Client, engine: Engine) -> None:
        request = body(engine, messages=chat("A prompt that only this test sends, twice."))
        first, second = (complete(client, request)["usage"] for _ in range(2))
        assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"]
        assert first["prompt_tokens_details"]["cached_tokens"] < first["prompt_tokens"]

    def test_n_samples(self, client: httpx.Client, engine: Engine) -> None:
        answer = complete(client, body(engine, n=4, temperature=1, seed=5))
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert len({choice["message"]["content"] for choice in answer["choices"]}) > 1
        assert answer["usage"]["completion_tokens"] == sum([8] * 4)
        assert complete(client, body(engine, n=4, temperature=1, seed=5))["choices"] == answer["choices"]

    def test_response_format_json_schema(self, client: httpx.Client, engine: Engine) -> None:
        schema = {
            "name": "a",
            "schema": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False},
        }
        answer = complete(client, body(engine, max_tokens=60, response_format={"type": "json_schema", "json_schema": schema}))
        assert json.loads(answer["choices"][0]["message"]["content"])["a"] in (1, 2)

    def test_response_format_json_object(self, client: httpx.Client, engine: Engine) -> None:
        answer = complete(client, body(engine, max_tokens=4, response_format={"type": "json_object"}))
        assert answer["choices"][0]["message"]["content"].startswith("{")

    def test_structured_outputs_choice(self, client: httpx.Client, engine: Engine) -> None:
        answer = complete(client, body(engine, structured_outputs={"choice": ["red", "blue"]}))
        assert answer["choices"][0]["message"]["content"] in ("red", "blue")
        assert answer["choices"][0]["finish_reason"] == "stop"


class TestLogProbabilities:
    def test_are_those_of_the_answers_tokens(self, client: httpx.Client, engine: Engine) -> None:
        (choice,) = complete(client, body(engine, temperature=1, seed=3, logprobs=True, top_logprobs=4))["choices"]
        tokens = choice["logprobs"]["content"]
        assert len(tokens) == 8
        assert bytes(byte for token in tokens for byte in token["bytes"]).decode(errors="replace") == choice["message"]["content"]
        for token in tokens:
            logprobs = [other["logprob"] for other in token["top_logprobs"]]
            assert len(logprobs) == 4
            assert logprobs == sorted(logprobs, reverse=True)
            assert token["logprob"] <= logprobs[0] < 0

    def test_of_a_constrained_answer_are_among_what_was_allowed(self, client: httpx.Client, engine: Engine) -> None:
        request = body(engine, structured_outputs={"choice": ["red", "redder"]}, logprobs=True, top_logprobs=20, temperature=1, n=8)
        for choice in complete(client, request)["choices"]:
            content = choice["logprobs"]["content"]
            sums = [sum(math.exp(other["logprob"]) for other in token["top_logprobs"]) for token in content]
            assert sums == pytest.approx([1.0] * len(content))
            assert [token["bytes"] for token in content if token["token"] == "<|im_end|>"] == [None] * (
                choice["message"]["content"] == "red"
            )

    def test_are_absent_unless_asked_for(self, client: httpx.Client, engine: Engine) -> None:
        assert complete(client, body(engine))["choices"][0]["logprobs"] is None


class TestStream:
    def events(self, client: httpx.Client, request: dict[str, Any]) -> list[dict[str, Any]]:
        with client.stream("POST", "/v1/chat/completions", json=request) as reply:
            lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    @pytest.mark.parametrize(
        "options", [{}, {"stop": ["a", "e"]}, {"temperature": 1.5, "seed": 2}, {"structured_outputs": {"regex": "(ab|cd){3}"}}]
    )
    def test_pieces_make_the_whole_answer(self, client: httpx.Client, engine: Engine, options: dict[str, Any]) -> None:
        request = body(engine, max_tokens=40, logprobs=True, **options)
        whole = complete(client, request)
        events = self.events(client, {**request, "stream": True, "stream_options": {"include_usage": True}})
        usage = events.pop()["usage"]
        choices = [event["choices"][0] for event in events]
        assert "".join(choice["delta"].get("content", "") for choice in choices) == whole["choices"][0]["message"]["content"]
        tokens = [token for choice in choices for token in (choice["logprobs"] or {"content": []})["content"]]
        assert tokens == (whole["choices"][0]["logprobs"] or {"content": []})["content"]
        assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]

    def test_samples_are_told_apart(self, client: httpx.Client, engine: Engine) -> None:
        request = body(engine, n=2, temperature=1, seed=9)
        whole = [choice["message"]["content"] for choice in complete(client, request)["choices"]]
        said = ["", ""]
        for event in self.events(client, {**request, "stream": True}):
            said[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content", "")
        assert said == whole

    def test_a_caller_that_leaves_takes_its_row_along(self, client: httpx.Client, engine: Engine) -> None:
        request = body(engine, max_tokens=1900, stream=True, messages=chat("Leave early."))
        with client.stream("POST", "/v1/chat/completions", json=request) as reply:
            next(reply.iter_lines())
        # A sleep request is answered when no row is left, long before 1900 tokens are made.
        before = engine.stats.completion_tokens
        assert client.post("/sleep").json() == {"is_sleeping": True}
        assert engine.stats.completion_tokens == before
        client.post("/wake_up")


class TestCompletions:
    """The prompt is taken as it is: what a chat template would render is the same question."""

    def ask(self, client: httpx.Client, engine: Engine, **changes: Any) -> httpx.Response:
        request = {"model": engine.base.id, "max_tokens": 8, "temperature": 0, **changes}
        return client.post("/v1/completions", json=request)

    def test_a_rendered_chat_gets_the_chats_answer(self, client: httpx.Client, engine: Engine) -> None:
        rendered = engine.tokenizer.apply_chat_template(chat("Say it."), add_generation_prompt=True, tokenize=False)
        said = complete(client, body(engine, messages=chat("Say it.")))
        tokens = engine.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        for prompt in (rendered, tokens):
            answer = self.ask(client, engine, prompt=prompt).json()
            assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", said["choices"][0]["message"]["content"])
            assert answer["usage"]["prompt_tokens"] == said["usage"]["prompt_tokens"]

    def test_several_prompts_have_n_answers_each_in_their_order(self, client: httpx.Client, engine: Engine) -> None:
        answer = self.ask(client, engine, prompt=["One", "Two two"], n=2).json()
        alone = [self.ask(client, engine, prompt=prompt).json() for prompt in ("One", "Two two")]
        texts = [each["choices"][0]["text"] for each in alone]
        assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == list(enumerate([texts[0]] * 2 + [texts[1]] * 2))
        assert answer["usage"]["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in alone)

    def test_streams(self, client: httpx.Client, engine: Engine) -> None:
        whole = self.ask(client, engine, prompt="One", stop="e").json()["choices"][0]
        lines = [line.removeprefix("data: ") for line in self.ask(client, engine, prompt="One", stop="e", stream=True).text.split("\n\n")]
        choices = [json.loads(line)["choices"][0] for line in lines[:-2]]
        assert lines[-2:] == ["[DONE]", ""]
        assert ("".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]) == (whole["text"], whole["finish_reason"])

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"prompt": ""}, "prompt"),
            ({"prompt": []}, "prompt"),
            ({"prompt": [10**9]}, "prompt"),
            ({"prompt": ["a"] * 65}, None),
            ({}, "prompt"),
            ({"prompt": "a", "suffix": "b"}, "suffix"),
            ({"prompt": "a", "logprobs": 2}, "logprobs"),
        ],
    )
    def test_400_names_the_field(self, client: httpx.Client, engine: Engine, changes: dict[str, Any], param: str | None) -> None:
        reply = self.ask(client, engine, **changes)
        assert (reply.status_code, error_of(reply)["param"]) == (400, param)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"temperature": 3}, "temperature"),
            ({"n": 0}, "n"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
            ({"tools": []}, "tools"),
            ({"logprobs": 2}, "logprobs"),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
            ({"structured_outputs": {"regex": "(a"}}, "structured_outputs"),
            ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
            ({"structured_outputs": {"json": {"type": "nope"}}}, "structured_outputs"),
            ({"response_format": {"type": "xml"}}, "response_format.type"),
            ({"max_tokens": 5000}, "max_tokens"),
            ({"messages": chat("long " * 3000)}, "messages"),
        ],
    )
    def test_400_names_the_field(self, client: httpx.Client, engine: Engine, changes: dict[str, Any], param: str) -> None:
        reply = client.post("/v1/chat/completions", json=body(engine, **changes))
        assert reply.status_code == 400
        assert error_of(reply)["param"] == param

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"presence_penalty": 0.1}, "This host has no presence_penalty."),
            ({"frequency_penalty": -1}, "This host has no frequency_penalty."),
            ({"logit_bias": {"1": 1}}, "This host has no logit_bias."),
        ],
    )
    def test_what_it_has_not_is_named(self, client: httpx.Client, engine: Engine, changes: dict[str, Any], message: str) -> None:
        error = error_of(client.post("/v1/chat/completions", json=body(engine, **changes)))
        assert (error["message"], error["param"], error["code"]) == (message, *changes, "unsupported_parameter")

    def test_values_that_ask_for_nothing_are_taken(self, client: httpx.Client, engine: Engine) -> None:
        nothing = {"presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "top_logprobs": 0, "logit_bias": {}}
        assert complete(client, body(engine, max_tokens=1, **nothing))["choices"]

    def test_likeliest_tokens_need_log_probabilities(self, client: httpx.Client, engine: Engine) -> None:
        reply = client.post("/v1/chat/completions", json=body(engine, top_logprobs=3))
        assert (reply.status_code, error_of(reply)["message"]) == (400, "body: Value error, top_logprobs needs logprobs")

    def test_not_json(self, client: httpx.Client) -> None:
        assert client.post("/v1/chat/completions", content=b"{").status_code == 400

    def test_unknown_model_is_404(self, client: httpx.Client, engine: Engine) -> None:
        reply = client.post("/v1/chat/completions", json=body(engine, model="gpt-5"))
        assert reply.status_code == 404
        assert error_of(reply)["code"] == "model_not_found"

    @pytest.mark.parametrize("header", [{}, {"authorization": "Bearer wrong"}])
    def test_the_key_is_asked_for(self, address: str, header: dict[str, str]) -> None:
        assert httpx.get(f"{address}/v1/models", headers=header).status_code == 401
        assert httpx.get(f"{address}/health", headers=header).status_code == 200


class TestLoraRoutes:
    def test_load_list_use_unload(self, client: httpx.Client, engine: Engine, lab: Path) -> None:
        load = client.post("/v1/load_lora_adapter", json={"lora_name": "tuned", "lora_path": str(lab / "first")})
        assert load.status_code == 200
        models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        assert models["tuned"]["parent"] == engine.base.id
        assert complete(client, body(engine, model="tuned"))["choices"] != complete(client, body(engine))["choices"]
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "tuned"}).status_code == 200
        assert client.post("/v1/chat/completions", json=body(engine, model="tuned")).status_code == 404
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "tuned"}).status_code == 404

    def test_a_missing_folder_is_404(self, client: httpx.Client, tmp_path: Path) -> None:
        reply = client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": str(tmp_path / "none")})
        assert reply.status_code == 404


class TestSleep:
    def test_hand_over(self, client: httpx.Client, engine: Engine) -> None:
        before = complete(client, body(engine))
        assert client.post("/sleep").json() == {"is_sleeping": True}
        refused = client.post("/v1/chat/completions", json=body(engine))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/health").json() == {"status": "sleeping"}
        client.post("/wake_up")
        assert client.get("/is_sleeping").json() == {"is_sleeping": False}
        assert complete(client, body(engine))["choices"] == before["choices"]

    def test_metrics(self, client: httpx.Client) -> None:
        text = client.get("/metrics").text
        assert "lmhost_requests_total" in text
        assert "lmhost_sleeping 0.0" in text
