"""Asking models over HTTP: the gateway, and compiled programs."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.gateway import relaying
from distill.catalog import connections, fine_tuned
from distill.db import unit_of_work
from distill.jobs import events
from distill.settings import get_settings
from tests.integration.api.conftest import SPEC, Tokens
from tests.integration.api.finished import MODEL, Finished, finish, lend_device, load
from tests.support.scripted_lm import Answer, Ask, Drip, Fail, ScriptedLM


def answer(ask: Ask) -> Answer:
    text = ask.text
    if "fail with" in text:
        return Fail(int(text.split("fail with ")[1][:3]), code="scripted", message="upstream says no")
    if "drip" in text:
        return Drip("one two three", 0.001)
    return {"category": "billing"} if ask.outputs else f"I am {ask.model}"


pytestmark = pytest.mark.lm_answers.with_args(answer)


@pytest.fixture
def finished(api: TestClient) -> Finished:
    return finish(api)


def ask(api: TestClient, model: str, text: str = "hello", **more: Any) -> Any:
    return api.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": text}], **more})


class TestResolve:
    @pytest.mark.parametrize("name", ["house/tiny", "openai/house/tiny", "tiny"])
    def test_a_connections_model(self, api: TestClient, name: str) -> None:
        reply = ask(api, name)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == "I am tiny"

    def test_a_predictor_of_an_alias_is_the_model_that_it_names_now(self, api: TestClient, finished: Finished, tokens: Tokens) -> None:
        load(finished)
        assert ask(api, "router.self@prod").status_code == 404
        assert api.put("/v1/aliases/router@prod", json={"artifact": finished.artifact_id}).status_code == 200
        for name in ("router.self@prod", "openai/router.self@prod"):
            assert ask(api, name).json()["choices"][0]["message"]["content"] == f"I am {MODEL}"
        unknown = ask(api, "router.reply@prod")
        assert (unknown.status_code, "there are router.self@prod" in unknown.json()["error"]["message"]) == (404, True)
        assert [ask(api, name).status_code for name in ("router@prod", "router.self@beta", "router.@prod", ".self@prod")] == [404] * 4
        api.headers["Authorization"] = f"Bearer {tokens.other}"
        assert ask(api, "router.self@prod").status_code == 404

    def test_a_connection_called_like_the_routing_prefix(self, monkeypatch: pytest.MonkeyPatch, lm_url: str, api: TestClient) -> None:
        monkeypatch.setenv("STILLHOUSE_CONNECTIONS__OPENAI__BASE_URL", lm_url)
        get_settings.cache_clear()
        with unit_of_work() as s:
            connections.sync(s, get_settings())
        assert ask(api, "openai/big-1").json()["choices"][0]["message"]["content"] == "I am big-1"

    @pytest.mark.parametrize("name", [MODEL, f"openai/{MODEL}", f"house/{MODEL}", f"openai/house/{MODEL}"])
    def test_a_loaded_model(self, api: TestClient, finished: Finished, name: str) -> None:
        load(finished)
        assert ask(api, name).json()["choices"][0]["message"]["content"] == f"I am {MODEL}"

    @pytest.mark.parametrize("name", ["sh-nothing", "gpt-9", "house/other", "nowhere/tiny", "house/", "a" * 3000])
    def test_no_model_is_404_and_nobody_is_asked(self, api: TestClient, lm: ScriptedLM, name: str) -> None:
        reply = ask(api, name)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert lm.calls == []

    def test_another_projects_model_is_404(self, api: TestClient, finished: Finished, tokens: Tokens, lm: ScriptedLM) -> None:
        load(finished)
        api.headers["Authorization"] = f"Bearer {tokens.other}"
        assert ask(api, MODEL).status_code == 404
        assert lm.calls == []

    @pytest.mark.parametrize("deleted", [False, True])
    def test_a_fine_tuned_model_is_not_reached_through_its_connection(
        self,
        monkeypatch: pytest.MonkeyPatch,
        lm_url: str,
        api: TestClient,
        finished: Finished,
        tokens: Tokens,
        lm: ScriptedLM,
        deleted: bool,
    ) -> None:
        """Where the operator lets a connection take any model, also one that it does not list."""
        load(finished)
        monkeypatch.setenv("STILLHOUSE_CONNECTIONS__VLLM__BASE_URL", lm_url)
        monkeypatch.setenv("STILLHOUSE_CONNECTIONS__VLLM__MODELS", "*")
        get_settings.cache_clear()
        with unit_of_work() as s:
            connections.sync(s, get_settings())
        if deleted:
            assert api.delete(f"/v1/models/{MODEL}").status_code == 200
        api.headers["Authorization"] = f"Bearer {tokens.other}"
        for name in (f"vllm/{MODEL}", f"openai/vllm/{MODEL}"):
            reply = ask(api, name)
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert lm.calls == []
        assert ask(api, "vllm/ft:gpt-9:org::abc").status_code == 200, "a provider's own"

    def test_a_key_without_the_scope(self, api: TestClient, tokens: Tokens) -> None:
        api.headers["Authorization"] = f"Bearer {tokens.read}"
        assert ask(api, "tiny").status_code == 403


class TestLoading:
    def test_not_loaded_in_time_is_503_and_never_the_base_model(
        self, api: TestClient, finished: Finished, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relaying, "LONGEST_LOAD_WAIT_SECONDS", 0.2)
        reply = ask(api, MODEL)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_loading")
        assert int(reply.headers["retry-after"]) > 0
        assert lm.calls == []

    def test_its_status_says_whether_it_would_answer_now(self, api: TestClient, finished: Finished) -> None:
        def said() -> list[str]:
            listed = {model["id"]: model["status"] for model in api.get("/v1/models").json()["data"]}
            return [api.get(f"/v1/models/{MODEL}").json()["status"], listed[MODEL]]

        assert said() == ["loading", "loading"]
        load(finished)
        assert said() == ["loaded", "loaded"]
        lend_device(finished)
        assert said() == ["loading", "loading"], "its host has lent its device to a trainer"

    def test_a_host_that_has_lent_its_device_says_to_which_training_and_since_when(
        self, api: TestClient, finished: Finished, tokens: Tokens, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the caller's project by its id, of another one without; whether the base model is asked or a fine-tuned one."""
        load(finished)
        training, since = lend_device(finished)
        monkeypatch.setattr(relaying, "LONGEST_LOAD_WAIT_SECONDS", 0.0)
        lent = f"the LM host of house has lent its device to a training since {since:%Y-%m-%d %H:%M:%S} UTC"
        for token, who in ((tokens.all, training), (tokens.other, "another project")):
            api.headers["Authorization"] = f"Bearer {token}"
            for model in ["house/tiny", MODEL] if token == tokens.all else ["house/tiny"]:
                read = api.get(f"/v1/models/{model}").json()
                assert (read["status"], read["status_reason"].startswith(lent), who in read["status_reason"]) == ("loading", True, True)
                reply = ask(api, model)
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_loading")
                assert read["status_reason"] in reply.json()["error"]["message"]
        assert training not in api.get("/v1/models").text
        assert api.get("/v1/models/big/big-model").json()["status"] == "loaded"
        assert lm.calls == []

    def test_waits_until_it_is_loaded(self, api: TestClient, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
        looks: list[int] = []
        resolve = relaying._resolve

        def load_at_the_third_look(project_id: str, model: str) -> Any:
            looks.append(1)
            if len(looks) == 3:
                load(finished)
            return resolve(project_id, model)

        monkeypatch.setattr(relaying, "_LOOK_EVERY_SECONDS", 0.01)
        monkeypatch.setattr(relaying, "_resolve", load_at_the_third_look)
        assert ask(api, MODEL).status_code == 200
        assert len(looks) == 3

    def test_one_that_cannot_be_loaded_is_503_at_once(self, api: TestClient, finished: Finished) -> None:
        with unit_of_work() as s:
            fine_tuned.set_placement(s, finished.placement_id, "failed", error="out of memory")
        reply = ask(api, MODEL)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_failed")

    def test_the_list_says_how_it_stands(self, api: TestClient, finished: Finished) -> None:
        def status() -> str:
            models = {model["id"]: model for model in api.get("/v1/models").json()["data"]}
            assert {"house/tiny", "big/big-model", MODEL} <= set(models)
            return str(models[MODEL]["status"])

        assert status() == "loading"
        load(finished)
        assert status() == "loaded"
        one = api.get(f"/v1/models/openai/{MODEL}").json()
        assert (one["parent"], one["compile_job_id"], one["predictors"]) == ("tiny", finished.job_id, ["self"])
        assert api.get("/v1/models/house/tiny").json()["owned_by"] == "house"

    def test_it_has_the_names_of_aliases_too(self, api: TestClient, finished: Finished) -> None:
        assert api.put("/v1/aliases/router@prod", json={"artifact": finished.artifact_id}).status_code == 200
        load(finished)
        listed = {model["id"]: model for model in api.get("/v1/models").json()["data"]}
        assert listed["router.self@prod"] == listed[MODEL] | {"id": "router.self@prod", "alias_of": MODEL}
        assert listed[MODEL]["alias_of"] is None
        for name in ("router.self@prod", "openai/router.self@prod"):
            assert api.get(f"/v1/models/{name}").json() == listed["router.self@prod"]
        assert ask(api, "router.self@prod").status_code == 200
        assert api.delete("/v1/models/router.self@prod").status_code == 404
        assert api.delete("/v1/aliases/router@prod").status_code == 200
        assert "router.self@prod" not in api.get("/v1/models").text
        assert api.get("/v1/models/router.self@prod").status_code == 404


class TestRelay:
    def test_the_body_is_passed_on_and_our_key_is_not(self, api: TestClient, lm: ScriptedLM) -> None:
        ask(api, "house/tiny", temperature=0.5, structured_outputs={"choice": ["a"]}, seed=3)
        body = lm.calls[0].body
        assert (body["model"], body["temperature"], body["seed"], body["structured_outputs"]) == ("tiny", 0.5, 3, {"choice": ["a"]})

    def test_options_mean_what_the_host_takes_them_for(self, api: TestClient, lm: ScriptedLM) -> None:
        options: dict[str, Any] = {
            "n": 2,
            "stop": ["x"],
            "logprobs": True,
            "top_logprobs": 3,
            "tools": [{"type": "function", "function": {"name": "look"}}],
            "tool_choice": "auto",
            "response_format": {"type": "json_object"},
        }
        ask(api, "house/tiny", **options)
        assert {name: lm.calls[0].body[name] for name in options} == options

    def test_streams(self, api: TestClient) -> None:
        reply = ask(api, "tiny", "drip", stream=True)
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.text.count("data: ") > 3
        assert reply.text.rstrip().endswith("data: [DONE]")

    def test_a_fault_of_the_request_keeps_its_message(self, api: TestClient) -> None:
        reply = ask(api, "tiny", "fail with 400")
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, "upstream says no")

    @pytest.mark.parametrize(
        "body", [{"messages": [{}]}, {"model": "tiny"}, {"model": "tiny", "messages": []}, {"model": 7, "messages": [{}]}, []]
    )
    def test_a_broken_body_is_400_as_openai_has_it(self, api: TestClient, body: Any) -> None:
        reply = api.post("/v1/chat/completions", json=body)
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


class TestArtifact:
    def test_read_list_and_files(self, api: TestClient, finished: Finished) -> None:
        artifact = api.get(f"/v1/artifacts/{finished.artifact_id}").json()
        assert artifact["models"] == {"self": MODEL}
        assert [file["path"] for file in artifact["files"]] == ["README.md", "manifest.json", "spec.json"]
        assert api.get("/v1/artifacts?program=router").json()["data"][0]["id"] == finished.artifact_id
        assert api.get("/v1/artifacts?program=other").json()["data"] == []
        assert api.get(f"/v1/artifacts/{finished.artifact_id}/files/README.md").text == "# router"
        assert api.get(f"/v1/artifacts/{finished.artifact_id}/files/../x").status_code == 404
        assert api.get(f"/v1/compile_jobs/{finished.job_id}/artifact").json()["id"] == finished.artifact_id
        assert api.get(f"/v1/compile_jobs/{finished.job_id}").json()["artifact"]["load"] == f'stillhouse.load("{finished.artifact_id}")'

    def test_call_runs_the_program_on_its_model(self, api: TestClient, finished: Finished, lm: ScriptedLM) -> None:
        path = f"/v1/artifacts/{finished.artifact_id}/call"
        assert api.post(path, json={"inputs": {"message": "I was charged twice"}}).status_code == 503
        load(finished)
        reply = api.post(path, json={"inputs": {"message": "I was charged twice"}})
        assert reply.status_code == 200, reply.text
        assert reply.json()["outputs"] == {"category": "billing"}
        assert [(call.body["model"], call.body["max_tokens"]) for call in lm.calls] == [(MODEL, 70)]

    @pytest.mark.parametrize("inputs", [{}, {"message": 7}])
    def test_wrong_inputs_are_refused_before_anything_is_paid(
        self, api: TestClient, finished: Finished, lm: ScriptedLM, inputs: dict[str, Any]
    ) -> None:
        reply = api.post(f"/v1/artifacts/{finished.artifact_id}/call", json={"inputs": inputs})
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "inputs.message")
        assert lm.calls == []


class TestRender:
    def test_shows_the_prompt_without_asking(self, api: TestClient, lm: ScriptedLM) -> None:
        program = api.post("/v1/programs", json=SPEC).json()
        (shown,) = program["prompts"]
        assert (shown["predictor"], "{input.message}" in shown["messages"][-1]["content"]) == ("self", True)
        reply = api.post(f"/v1/programs/{program['id']}/render", json={"inputs": {"message": "I was charged twice"}})
        assert reply.status_code == 200, reply.text
        call = reply.json()["calls"][0]
        assert call["predictor"] == "self"
        assert "I was charged twice" in call["messages"][-1]["content"]
        assert lm.calls == []


class TestFineTuningJobs:
    def test_openai_shape(self, api: TestClient, finished: Finished) -> None:
        job = api.get("/v1/fine_tuning/jobs").json()["data"][0]
        assert (job["object"], job["model"], job["status"]) == ("fine_tuning.job", "tiny", "queued")
        assert job["metadata"]["compile_job_id"] == finished.job_id
        assert api.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
        assert api.get(f"/v1/compile_jobs/{finished.job_id}/fine_tuning_jobs").json()["data"] == [job]
        events = api.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
        assert events[0]["object"] == "fine_tuning.job.event"

    def test_events_come_in_pages(self, api: TestClient, finished: Finished) -> None:
        with unit_of_work() as s:
            for message in ("first", "second", "third"):
                events.append(s, finished.job_id, "train.progress", message)
        path = f"/v1/fine_tuning/jobs/{api.get('/v1/fine_tuning/jobs').json()['data'][0]['id']}/events"
        whole = api.get(path).json()["data"]
        first = api.get(path, params={"limit": len(whole) - 2}).json()
        assert (first["data"], first["has_more"]) == (whole[:-2], True)
        second = api.get(path, params={"after": first["last_id"]})
        assert second.status_code == 200, second.text
        assert (second.json()["data"], second.json()["has_more"]) == (whole[-2:], False)

    @pytest.mark.parametrize("after", ["ftevent-x", "ftevent-x-", "3", "ftevent-x-\\d", "ftevent-x-" + "9" * 19])
    def test_a_broken_place_to_go_on_from_is_400(self, api: TestClient, finished: Finished, after: str) -> None:
        child = api.get("/v1/fine_tuning/jobs").json()["data"][0]["id"]
        assert api.get(f"/v1/fine_tuning/jobs/{child}/events", params={"after": after}).status_code == 400

    def test_a_child_is_cancelled_by_its_parent(self, api: TestClient, finished: Finished) -> None:
        child = api.get("/v1/fine_tuning/jobs").json()["data"][0]["id"]
        reply = api.post(f"/v1/fine_tuning/jobs/{child}/cancel")
        assert reply.status_code == 409
        assert finished.job_id in reply.json()["error"]["message"]


class TestScopes:
    def test_a_model_user_loads_artifacts(self, bare: TestClient, tokens: Tokens, finished: Finished) -> None:
        headers = {"Authorization": f"Bearer {tokens.use}"}
        artifact = bare.get("/v1/artifacts", headers={"Authorization": f"Bearer {tokens.read}"}).json()["data"][0]["id"]
        assert bare.get(f"/v1/artifacts/{artifact}", headers=headers).status_code == 200
        assert bare.get(f"/v1/artifacts/{artifact}/content", headers=headers).status_code == 200
        assert bare.get("/v1/artifacts", headers=headers).status_code == 403
