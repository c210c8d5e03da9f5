"""openai-python, unmodified, against the routes that have its shape."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from starlette.testclient import TestClient

from stillhouse import Stillhouse
from tests.integration.api.conftest import ROWS, SPEC, Tokens, job_body
from tests.integration.api.finished import finish, load, trained

pytestmark = pytest.mark.lm_answers.with_args(lambda ask: f"I am {ask.model}")


@pytest.fixture
def client(address: str, tokens: Tokens) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=tokens.all, max_retries=0) as made:
        yield made


HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


class TestOpenAI:
    def test_asks_and_streams(self, client: openai.OpenAI) -> None:
        reply = client.chat.completions.create(model="house/tiny", messages=HELLO)
        assert reply.choices[0].message.content == "I am tiny"
        chunks = client.chat.completions.create(model="house/tiny", messages=HELLO, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "I am tiny"

    def test_lists_models(self, client: openai.OpenAI) -> None:
        assert {"house/tiny", "big/big-model"} <= {model.id for model in client.models.list()}

    def test_lists_fine_tuning_jobs(self, client: openai.OpenAI) -> None:
        assert list(client.fine_tuning.jobs.list()) == []

    def test_errors_are_its_own(self, client: openai.OpenAI, address: str, tokens: Tokens) -> None:
        with pytest.raises(openai.NotFoundError) as raised:
            client.chat.completions.create(model="sh-nothing", messages=HELLO)
        assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="house/tiny", messages=[])
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="sh_a_b", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()


class TestModelIds:
    def test_a_job_the_list_retrieve_and_chat_have_one_id(self, api: TestClient, client: openai.OpenAI) -> None:
        finished = finish(api, model="ft:tiny:mine::abcd")
        load(finished)
        trained(finished)
        (job,) = client.fine_tuning.jobs.list()
        model = str(job.fine_tuned_model)
        assert model == "openai/ft:tiny:mine::abcd", "DSPy routes by this prefix"
        assert model in [each.id for each in client.models.list()]
        for name in (model, "ft:tiny:mine::abcd", "house/ft:tiny:mine::abcd"):
            assert client.models.retrieve(name).id == model
            assert client.chat.completions.create(model=name, messages=HELLO).model == model
            chunks = client.chat.completions.create(model=name, messages=HELLO, stream=True)
            assert {chunk.model for chunk in chunks} == {model}

    def test_a_job_takes_it_and_gives_it_back(self, api: TestClient) -> None:
        finish(api, model="ft:tiny:mine::abcd")
        lm = {"connection": "house", "model": "ft:tiny:mine::abcd"}
        job = api.post("/v1/compile_jobs", json=job_body(lms={"student": lm}, teacher=[{"lms": {"student": lm}}])).json()
        given = job["lms"]["student"], job["teacher"][0]["lms"]["student"]
        assert [(each["connection"], each["model"]) for each in given] == [("house", "openai/ft:tiny:mine::abcd")] * 2
        assert "fine_tuned" not in job["lms"]["student"]
        assert api.post("/v1/compile_jobs", json=job_body(lms=job["lms"])).status_code == 201
        refused = api.delete("/v1/models/openai/ft:tiny:mine::abcd")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use")

    @pytest.mark.parametrize("name", ["house/tiny", "tiny", "openai/tiny"])
    def test_a_base_model_is_retrieved_by_what_chat_takes(self, client: openai.OpenAI, name: str) -> None:
        assert client.models.retrieve(name).id == "house/tiny"
        assert client.chat.completions.create(model=name, messages=HELLO).model == "house/tiny"

    def test_what_two_connections_have_is_named_with_its_connection(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("house/other")


class TestBesides:
    def test_the_sdk_uses_the_same_address(self, address: str, tokens: Tokens) -> None:
        with Stillhouse(address, tokens.all) as client:
            assert client.compile_jobs.create(program=SPEC, trainset=ROWS).status == "queued"
            assert "house/tiny" in {model.id for model in client.models.list()}
