"""Artifacts as a user loads them: files verified, calls to the right models with the right key, prompts as trained."""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.clients.cache import Cache
from dspy.lm15 import unregister_provider

from stillhouse_programs.artifact import KEY_VARIABLE, PromptMismatch, lm_state, load_artifact, program_state
from stillhouse_programs.artifact_files import ArtifactError
from stillhouse_programs.build import build_program
from stillhouse_programs.grammar import derive_grammar
from stillhouse_programs.prompts import make_prompt_adapter, stand_in_lm
from stillhouse_programs.prove import prompt_hash
from stillhouse_programs.spec import canonical_json, parse_spec
from tests.unit.programs.samples import ROUTER, SAMPLES, SUPPORT, Support, copy_of
from tests.unit.programs.scripted_server import Scripted, scripted_server

LMS = {
    "classify.predict": {"model": "tune/sh-support-classify-7f3a", "temperature": 0.0, "max_tokens": 64},
    "reply": {"model": "tune/sh-support-reply-7f3a", "temperature": 0.0, "max_tokens": 64},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with scripted_server() as scripted:
        yield scripted
    unregister_provider("tune")


def write(folder: Path, contents: dict[str, bytes], **manifest: Any) -> None:
    """Write an artifact's folder with a manifest of the files' hashes."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    listed = {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in contents.items()}
    facts = {
        "format": 1,
        "program_name": "support",
        "prompt_adapter": {"type": "chat"},
        "prompt_hash": prompt_hash(Support(), SAMPLES, "chat"),
        "prompt_samples": SAMPLES,
        "dspy_version": dspy.__version__,
        "files": listed,
    }
    (folder / "manifest.json").write_text(json.dumps({**facts, **manifest}))


def files_of(spec: dict[str, Any] = SUPPORT, lms: Any = LMS) -> dict[str, bytes]:
    parsed = parse_spec(spec)
    return {
        "spec.json": canonical_json(parsed).encode(),
        "program.json": json.dumps(program_state(build_program(parsed), lms)).encode(),
        "README.md": b"# support\n",
        "lora/sh-support-reply-7f3a/adapter_model.safetensors": b"\0" * 64,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, files_of())
    return tmp_path


class TestCalls:
    def test_go_to_the_tuned_models_with_the_key_of_the_environment(
        self, folder: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = load_artifact(folder, server.base_url)
        monkeypatch.setenv(KEY_VARIABLE, "sh_late")
        result = program(message="I was charged twice")
        assert (result.category, result.answer, result.confidence) == ("billing", "answer!", 0.9)
        assert server.models == ["sh-support-classify-7f3a", "sh-support-reply-7f3a"]
        assert {path for path, _, _ in server.requests} == {"/v1/chat/completions"}
        assert server.keys == {"Bearer sh_late"}

    def test_use_the_given_key_where_the_environment_has_none(self, folder: Path, server: Scripted) -> None:
        load_artifact(folder, f"{server.base_url}/v1/", api_key="sh_given")(message="hi")
        assert server.keys == {"Bearer sh_given"}

    @pytest.mark.parametrize("own_class", [False, True], ids=["spec", "own class"])
    def test_keep_the_trained_prompt_in_an_app_that_configured_another(self, folder: Path, server: Scripted, own_class: bool) -> None:
        program = load_artifact(folder, server.base_url, "k", Support() if own_class else None)
        with dspy.context(lm=stand_in_lm(), adapter=dspy.JSONAdapter()):
            result = program(message="I was charged twice")
        assert result.category == "billing"
        for _, _, body in server.requests:
            assert "[[ ## completed ## ]]" in body["messages"][0]["content"]
            assert "response_format" not in body

    def test_send_the_options_of_the_artifact(self, folder: Path, server: Scripted) -> None:
        load_artifact(folder, server.base_url, "k")(message="hi")
        assert [(body["temperature"], body.get("max_tokens", body.get("max_completion_tokens"))) for _, _, body in server.requests] == [
            (0.0, 64),
            (0.2, 64),  # the predictor's own
        ]

    def test_are_not_cached(self, folder: Path, server: Scripted) -> None:
        program = load_artifact(folder, server.base_url, "k")
        program(message="hi")
        program(message="hi")
        assert len(server.requests) == 4

    @pytest.mark.parametrize("how", ["plain", "constrained", "native"])
    def test_of_a_wrapper_find_one_lm(self, tmp_path: Path, server: Scripted, how: str) -> None:
        """BestOfN and Refine ask `get_lm`, which wants one object for all predictors: those of equal LMs have the same."""
        role = {"constrain": how == "constrained", "native": ["reasoning"] if how == "native" else []}
        predictors = {name: {"lm_role": "student"} for name in LMS}
        write(tmp_path, files_of(lms=dict.fromkeys(LMS, LMS["reply"])), predictors=predictors, lms={"student": role})
        program = load_artifact(tmp_path, server.base_url, "k")
        best = dspy.BestOfN(program, N=2, reward_fn=lambda args, made: 1.0, threshold=1.0)
        assert best(message="hi").answer == "answer!"
        assert program.get_lm().model == "tune/sh-support-reply-7f3a"

    def test_of_a_copy(self, folder: Path, server: Scripted) -> None:
        copied = load_artifact(folder, server.base_url, "k").deepcopy()
        with dspy.context(adapter=dspy.JSONAdapter()):
            copied(message="hi")
        assert "[[ ## completed ## ]]" in server.requests[0][2]["messages"][0]["content"]

    def test_of_programs_of_two_servers_do_not_mix(self, folder: Path, server: Scripted) -> None:
        one = load_artifact(folder, server.base_url, "k")
        with scripted_server() as other:
            two = load_artifact(folder, other.base_url, "k")
            one(message="hi")
            two(message="hi")
            assert (len(server.requests), len(other.requests)) == (2, 2)

    def test_of_a_program_that_is_one_predictor(self, tmp_path: Path, server: Scripted) -> None:
        hashed = prompt_hash(build_program(parse_spec(ROUTER)), SAMPLES, "json")
        files = files_of(ROUTER, {"self": {"model": "tune/sh-router-self-1"}})
        write(tmp_path, files, prompt_adapter={"type": "json"}, prompt_hash=hashed)
        program = load_artifact(tmp_path, server.base_url, "k")
        assert program(message="hi").category == "billing"
        assert server.models == ["sh-router-self-1"]


def held(*roles: str) -> dict[str, Any]:
    """What a manifest says where the predictors have LM roles of their own, and the answers of `roles` are constrained."""
    predictors = {"classify.predict": {"lm_role": "small"}, "reply": {"lm_role": "large"}}
    return {"predictors": predictors, "lms": {role: {"constrain": role in roles} for role in ("small", "large")}}


def grammars(server: Scripted) -> list[Any]:
    return [body.get("structured_outputs") for _, _, body in server.requests]


@pytest.fixture
def chat_grammars() -> list[Any]:
    """The grammar of each predictor of the support program, in the order of its calls."""
    return [derive_grammar(predictor.signature, make_prompt_adapter("chat")) for predictor in Support().predictors()]


class TestConstrained:
    """A program is asked under the grammar that it was evaluated under."""

    @pytest.mark.parametrize("own_class", [False, True], ids=["spec", "own class"])
    def test_calls_send_the_grammar_of_their_predictor(
        self, tmp_path: Path, server: Scripted, chat_grammars: list[Any], own_class: bool
    ) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        result = load_artifact(tmp_path, server.base_url, "k", Support() if own_class else None)(message="hi")
        assert (result.category, result.answer) == ("billing", "answer!")
        assert grammars(server) == chat_grammars
        assert [set(body) & {"metadata", "response_format"} for _, _, body in server.requests] == [set(), set()]
        assert [body.get("temperature") for _, _, body in server.requests] == [0.0, 0.2]

    def test_async_calls_do_too(self, tmp_path: Path, server: Scripted, chat_grammars: list[Any]) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        program = load_artifact(tmp_path, server.base_url, "k")
        assert asyncio.run(program.acall(message="hi")).answer == "answer!"
        assert grammars(server) == chat_grammars

    def test_streams_do_too(self, tmp_path: Path, server: Scripted, chat_grammars: list[Any]) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        reply = load_artifact(tmp_path, server.base_url, "k").reply
        listener = dspy.streaming.StreamListener(signature_field_name="answer")

        async def last(is_async: bool) -> Any:
            stream = dspy.streamify(reply, stream_listeners=[listener], is_async_program=is_async)
            return [part async for part in stream(message="hi", category="billing")][-1]

        assert [asyncio.run(last(is_async)).answer for is_async in (False, True)] == ["answer!", "answer!"]
        assert [body["stream"] for _, _, body in server.requests] == [True, True]
        assert grammars(server) == chat_grammars[1:] * 2

    def test_only_the_roles_that_were_constrained(self, tmp_path: Path, server: Scripted, chat_grammars: list[Any]) -> None:
        write(tmp_path, files_of(), **held("large"))
        load_artifact(tmp_path, server.base_url, "k")(message="hi")
        assert grammars(server) == [None, chat_grammars[1]]

    def test_copies_do_too(self, tmp_path: Path, server: Scripted, chat_grammars: list[Any]) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        copied = load_artifact(tmp_path, server.base_url, "k").deepcopy()
        copied.reply.lm = copied.reply.lm.copy(temperature=0.7)
        copied(message="hi")
        assert grammars(server) == chat_grammars

    def test_another_lm_is_not(self, tmp_path: Path, server: Scripted, chat_grammars: list[Any]) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        program = load_artifact(tmp_path, server.base_url, "k")
        program.reply.lm = dspy.LM("tune/sh-other", cache=False, api_key="k")
        program(message="hi")
        assert grammars(server) == [chat_grammars[0], None]

    def test_metadata_of_the_caller_stays(self, tmp_path: Path, server: Scripted, chat_grammars: list[Any]) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        program = load_artifact(tmp_path, server.base_url, "k")
        program.reply(message="hi", category="billing", config={"metadata": {"user": "7"}})
        assert server.requests[0][2]["metadata"] == {"user": "7"}
        assert grammars(server) == chat_grammars[1:]

    def test_loading_again_takes_the_constraint_off(self, tmp_path: Path, server: Scripted) -> None:
        write(tmp_path, files_of(), **held("small", "large"))
        program = load_artifact(tmp_path, server.base_url, "k")
        write(tmp_path, files_of(), **held())
        load_artifact(tmp_path, server.base_url, "k", program)(message="hi")
        assert grammars(server) == [None, None]

    def test_is_another_entry_of_dspys_cache(
        self, tmp_path: Path, server: Scripted, chat_grammars: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=100)
        monkeypatch.setattr(dspy, "cache", cache)
        write(tmp_path, files_of(), **held("small", "large"))
        reply = load_artifact(tmp_path, server.base_url, "k").reply
        write(tmp_path, files_of(), **held())
        free = load_artifact(tmp_path, server.base_url, "k", Support()).reply
        for predictor in (reply, free, reply, free):
            predictor.lm = predictor.lm.copy(cache=True)
            predictor(message="hi", category="billing")
        assert grammars(server) == [chat_grammars[1], None]

    def test_answers_that_no_grammar_holds_are_refused_as_on_the_server(self, tmp_path: Path, server: Scripted) -> None:
        spec = copy_of(ROUTER)
        spec["predictors"][0]["signature"]["fields"][1]["schema"] = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        hashed = prompt_hash(build_program(parse_spec(spec)), SAMPLES, "chat")
        manifest = {"predictors": {"self": {"lm_role": "student"}}, "lms": {"student": {"constrain": True}}, "prompt_hash": hashed}
        write(tmp_path, files_of(spec, {"self": {"model": "tune/sh-router-self-1"}}), **manifest)
        with pytest.raises(ArtifactError, match="predictor self are to be constrained, and cannot be: field category"):
            load_artifact(tmp_path, server.base_url, "k")


@pytest.mark.parametrize("constrain", [False, True])
def test_json_answers_are_held_by_nothing_but_the_grammar(tmp_path: Path, server: Scripted, constrain: bool) -> None:
    """dspy would send a response format of its own, which a job's evaluation never does."""
    hashed = prompt_hash(Support(), SAMPLES, "json")
    manifest = {**held(*(("small", "large") if constrain else ())), "prompt_adapter": {"type": "json"}, "prompt_hash": hashed}
    write(tmp_path, files_of(), **manifest)
    load_artifact(tmp_path, server.base_url, "k")(message="hi")
    assert [sorted(grammar or {}) for grammar in grammars(server)] == [["json"] if constrain else []] * 2
    assert not any("response_format" in body for _, _, body in server.requests)


class Asks(dspy.Signature):
    message: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def look_up(city: str) -> str:
    """Look."""
    return city


@pytest.mark.parametrize("native", [["tools"], []])
def test_models_that_were_trained_on_native_tool_calls_get_tools_beside_the_text(
    tmp_path: Path, server: Scripted, native: list[str]
) -> None:
    adapter = {"type": "chat", "native_tools": True}
    state = {**dspy.Predict(Asks).dump_state(), "lm": lm_state({"model": "tune/sh-agent-self-1"})}
    manifest = {"predictors": {"self": {"lm_role": "student"}}, "lms": {"student": {"native": native}}, "prompt_adapter": adapter}
    files = {**files_of(ROUTER, {}), "program.json": json.dumps(state).encode()}
    write(tmp_path, files, **manifest, prompt_hash=prompt_hash(dspy.Predict(Asks), SAMPLES, adapter))
    program = load_artifact(tmp_path, server.base_url, "k", dspy.Predict(Asks))
    with contextlib.suppress(dspy.utils.exceptions.AdapterParseError):
        program(message="hi", tools=[dspy.Tool(look_up)])
    body = server.requests[0][2]
    assert [tool["function"]["name"] for tool in body.get("tools", [])] == (["look_up"] if native else [])
    assert ("[[ ## tools ## ]]" in body["messages"][-1]["content"]) == (not native)


class TestRefused:
    @pytest.mark.parametrize("name", ["spec.json", "program.json", "lora/sh-support-reply-7f3a/adapter_model.safetensors"])
    def test_a_changed_file(self, folder: Path, name: str) -> None:
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        with pytest.raises(ArtifactError, match=f"{name} was changed"):
            load_artifact(folder, "http://127.0.0.1:1")

    def test_a_missing_file(self, folder: Path) -> None:
        (folder / "README.md").unlink()
        with pytest.raises(ArtifactError, match=r"lacks the file README\.md"):
            load_artifact(folder, "http://127.0.0.1:1")

    def test_a_folder_without_a_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
            load_artifact(tmp_path, "http://127.0.0.1:1")

    @pytest.mark.parametrize(
        ("manifest", "message"),
        [
            ({"format": 2}, "format 2"),
            ({"files": {}}, "does not list program.json"),
            ({"files": {name: {"sha256": "0"} for name in ("program.json", "spec.json", "../x")}}, "was changed"),
        ],
    )
    def test_a_manifest_that_does_not_fit(self, tmp_path: Path, manifest: dict[str, Any], message: str) -> None:
        write(tmp_path, files_of(), **manifest)
        with pytest.raises(ArtifactError, match=message):
            load_artifact(tmp_path, "http://127.0.0.1:1")

    def test_a_path_out_of_the_folder(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"] = {**manifest["files"], "../x": {"sha256": "0"}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ArtifactError, match="outside the artifact"):
            load_artifact(folder, "http://127.0.0.1:1")

    def test_prompts_other_than_trained_on(self, tmp_path: Path, server: Scripted) -> None:
        write(tmp_path, files_of(), prompt_hash="v1:other")
        with pytest.raises(PromptMismatch, match="differ from those that support was trained on"):
            load_artifact(tmp_path, server.base_url)

    def test_a_class_with_another_prompt(self, folder: Path, server: Scripted) -> None:
        program = Support()
        program.reply.signature = program.reply.signature.append("mood", dspy.OutputField(), type_=str)
        with pytest.raises(ArtifactError, match="predictor reply has 5 fields here, 4 there"):
            load_artifact(folder, server.base_url, program=program)
        program = Support()
        program.reply.config = {}
        with pytest.raises(PromptMismatch):
            load_artifact(folder, server.base_url, program=program)

    def test_a_class_with_other_predictors(self, folder: Path, server: Scripted) -> None:
        with pytest.raises(ArtifactError, match="the artifact has the predictors"):
            load_artifact(folder, server.base_url, program=dspy.Predict("message -> category"))


def test_another_dspy_alone_is_a_debug_line(tmp_path: Path, server: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, files_of(), dspy_version="3.4.0")
    with caplog.at_level(logging.DEBUG, "stillhouse_programs.artifact"):
        load_artifact(tmp_path, server.base_url)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "3.4.0" in caplog.text


class TestState:
    def test_dspy_loads_it_too(self, folder: Path, server: Scripted) -> None:
        load_artifact(folder, server.base_url)  # registers the provider
        program = Support()
        program.load(str(folder / "program.json"))
        assert program.reply.lm.model == "tune/sh-support-reply-7f3a"
        assert program.reply.demos[0]["category"] == "billing"

    def test_holds_sampling_options_only(self) -> None:
        state = lm_state({"model": "tune/x", "temperature": 0.1, "api_base": "http://evil", "api_key": "k", "extra_headers": {}})
        assert state == {"model": "tune/x", "model_type": "chat", "cache": False, "num_retries": 3, "temperature": 0.1}

    def test_of_a_file_sets_nothing_but_prompts_and_lms(self, tmp_path: Path, server: Scripted) -> None:
        files = files_of()
        state = json.loads(files["program.json"])
        state["reply"] |= {"config": {"api_base": "http://evil"}, "callbacks": ["x"]}
        state["reply"]["lm"] |= {"api_base": "http://evil"}
        write(tmp_path, {**files, "program.json": json.dumps(state).encode()})
        program = load_artifact(tmp_path, server.base_url, "k")
        assert program.reply.config == {"temperature": 0.2}
        assert program.reply.callbacks == []
        assert "api_base" not in program.reply.lm.kwargs

    def test_a_predictor_without_an_lm_uses_the_apps(self, tmp_path: Path, server: Scripted) -> None:
        write(tmp_path, files_of(lms={"reply": LMS["reply"]}))
        program = load_artifact(tmp_path, server.base_url, "k")
        assert program.classify.predict.lm is None
        with dspy.context(lm=program.reply.lm):
            program(message="hi")
        assert server.models == ["sh-support-reply-7f3a"] * 2
