"""Text completions and embeddings through the gateway, by openai-python, unmodified."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from starlette.testclient import TestClient

from tests.integration.api.conftest import Tokens
from tests.integration.api.finished import finish, load
from tests.integration.api.test_prompt_check import knows_its_prompt
from tests.support.scripted_lm import Fail, ScriptedLM
from tests.support.texts_lm import TextsLM


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with TextsLM(answer=lambda ask: f"I am {ask.model}") as server:
        yield server


@pytest.fixture
def chats_alone() -> Iterator[ScriptedLM]:
    with ScriptedLM(models=("tiny",)) as server:
        yield server


@pytest.fixture
def lm_url(request: pytest.FixtureRequest) -> str:
    mark = request.node.get_closest_marker("lm_answers")
    found: ScriptedLM = request.getfixturevalue("lm" if mark is None else "chats_alone")
    return found.url


@pytest.fixture
def client(address: str, tokens: Tokens) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=tokens.use, max_retries=0) as made:
        yield made


class TestCompletions:
    def test_asks_and_streams(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        reply = client.completions.create(model="tiny", prompt="Hello", temperature=0.5, max_tokens=9)
        assert (reply.choices[0].text, reply.model, reply.usage is not None) == ("I am tiny", "house/tiny", True)
        assert lm.calls[0].body == {"model": "tiny", "prompt": "Hello", "temperature": 0.5, "max_tokens": 9}
        chunks = list(client.completions.create(model="house/tiny", prompt="Hello", stream=True))
        assert ("".join(chunk.choices[0].text for chunk in chunks), {chunk.model for chunk in chunks}) == ("I am tiny", {"house/tiny"})
        assert len(chunks) == 3

    def test_the_same_key_asks_once(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        replies = [
            client.completions.with_raw_response.create(model="tiny", prompt="Hello", extra_headers={"Idempotency-Key": "k"})
            for _ in range(2)
        ]
        assert [reply.headers.get("idempotent-replayed") for reply in replies] == [None, "true"]
        assert len(lm.calls) == 1

    def test_a_compiled_programs_model_takes_no_prompt_but_its_own(self, client: openai.OpenAI, api: TestClient, lm: ScriptedLM) -> None:
        finished = finish(api)
        load(finished)
        knows_its_prompt()
        with pytest.raises(openai.BadRequestError) as raised:
            client.completions.create(model=finished.model, prompt="Hello")
        assert (raised.value.code, raised.value.param, lm.calls) == ("not_a_rendered_prompt", "prompt", [])
        passed = client.completions.create(model=finished.model, prompt="Hello", extra_headers={"stillhouse-prompt-check": "off"})
        assert passed.model == finished.model

    @pytest.mark.parametrize("prompt", ["", [], None, 7, [{}], {"a": 1}])
    def test_no_prompt_is_refused_by_name(self, api: TestClient, prompt: object) -> None:
        reply = api.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")

    def test_a_key_without_the_scope(self, api: TestClient, tokens: Tokens) -> None:
        api.headers["Authorization"] = f"Bearer {tokens.read}"
        assert [api.post(f"/v1/{path}", json={"model": "tiny"}).status_code for path in ("completions", "embeddings")] == [403] * 2


class TestEmbeddings:
    def test_embeds(self, client: openai.OpenAI, lm: ScriptedLM) -> None:
        reply = client.embeddings.create(model="big-model", input=["a", "bcd"], encoding_format="float")
        assert [each.embedding for each in reply.data] == [[1.0], [3.0]]
        assert (reply.model, reply.usage.total_tokens, lm.calls[0].body["model"]) == ("big/big-model", 2, "big-model")


@pytest.mark.lm_answers
class TestAHostThatHasChatsAlone:
    def test_says_so(self, client: openai.OpenAI, chats_alone: ScriptedLM) -> None:
        with pytest.raises(openai.BadRequestError, match="The LM host of house/tiny has no /v1/embeddings for this model") as raised:
            client.embeddings.create(model="tiny", input="a")
        assert (raised.value.code, raised.value.param) == ("unsupported", "model")
        with pytest.raises(openai.BadRequestError, match="has no /v1/completions"):
            client.completions.create(model="tiny", prompt="a")

    def test_one_that_does_not_serve_the_model_now_may_be_asked_again(self, client: openai.OpenAI, chats_alone: ScriptedLM) -> None:
        chats_alone.models = ("another",)
        with pytest.raises(openai.InternalServerError, match="does not list house/tiny now") as raised:
            client.embeddings.create(model="tiny", input="a")
        assert (raised.value.status_code, raised.value.code) == (503, "model_not_found")
        assert raised.value.response.headers["retry-after"] == "5"
        chats_alone.fault = Fail(404)
        with pytest.raises(openai.InternalServerError, match="does not list house/tiny now"):
            client.completions.create(model="tiny", prompt="a")
