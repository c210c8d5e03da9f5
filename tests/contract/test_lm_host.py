"""What the server expects of any LM host that a connection names: OpenAI's chat and models routes, and `structured_outputs`."""

import json
from typing import Any

import httpx
import pytest

from tests.contract.conftest import Host


def body(host: Host, **changes: Any) -> dict[str, Any]:
    return {"model": host.model, "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 8, "temperature": 0, **changes}


def answered(client: httpx.Client, request: dict[str, Any]) -> dict[str, Any]:
    reply = client.post("/v1/chat/completions", json=request)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def streamed(client: httpx.Client, request: dict[str, Any]) -> list[str]:
    """The events' data."""
    reply = client.post("/v1/chat/completions", json=request)
    assert reply.headers["content-type"].startswith("text/event-stream")
    return [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]


class TestChat:
    def test_completion(self, client: httpx.Client, host: Host) -> None:
        answer = answered(client, body(host))
        assert (answer["object"], answer["model"]) == ("chat.completion", host.model)
        assert answer["id"]
        (choice,) = answer["choices"]
        assert (choice["index"], choice["message"]["role"]) == (0, "assistant")
        assert isinstance(choice["message"]["content"], str)
        assert choice["finish_reason"] in {"stop", "length"}

    def test_usage_adds_up(self, client: httpx.Client, host: Host) -> None:
        usage = answered(client, body(host))["usage"]
        assert usage["prompt_tokens"] > 0
        assert usage["completion_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]

    def test_stream_gives_the_same_text_then_its_usage_then_done(self, client: httpx.Client, host: Host) -> None:
        whole = answered(client, body(host))["choices"][0]["message"]["content"]
        *chunks, done = streamed(client, body(host, stream=True, stream_options={"include_usage": True}))
        assert done == "[DONE]"
        read = [json.loads(chunk) for chunk in chunks]
        assert "".join(choice["delta"].get("content") or "" for chunk in read for choice in chunk["choices"]) == whole
        assert read[-1]["usage"]["completion_tokens"] > 0

    def test_structured_outputs_bind_the_answer(self, client: httpx.Client, host: Host) -> None:
        answer = answered(client, body(host, structured_outputs={"choice": ["billing", "technical"]}))
        assert answer["choices"][0]["message"]["content"] in {"billing", "technical"}


class TestModels:
    def test_list(self, client: httpx.Client, host: Host) -> None:
        listed = client.get("/v1/models").json()
        assert listed["object"] == "list"
        assert host.model in [model["id"] for model in listed["data"]]
        assert {model["object"] for model in listed["data"]} == {"model"}


class TestRefusals:
    @pytest.mark.parametrize("model", ["sh-nothing-here", "gpt-9"])
    def test_unknown_model_is_404(self, client: httpx.Client, host: Host, model: str) -> None:
        reply = client.post("/v1/chat/completions", json=body(host, model=model))
        assert reply.status_code == 404
        assert {"message", "type", "param", "code"} <= set(reply.json()["error"])
        assert model in reply.json()["error"]["message"]

    def test_wrong_key_is_401(self, host: Host) -> None:
        with host.client(key="wrong") as stranger:
            assert stranger.post("/v1/chat/completions", json=body(host)).status_code == 401
