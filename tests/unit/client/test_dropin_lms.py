"""Which connections the drop-in names for the LMs of a program, and that it leaves their keys alone."""

from __future__ import annotations

import json
import re
from typing import Any

import dspy
import httpx
import pytest

import stillhouse
from stillhouse.dropin.lms import NoConnection
from stillhouse.dropin.runner import ItemRun
from tests.support.scripted_lm import ScriptedLM
from tests.unit.client.dropin_server import Server, desk, example, item_of

CANARY = "sk-canary-0123456789"


def body_of(server: Server, client: stillhouse.Stillhouse, student: Any, teacher: Any = None, **options: Any) -> Any:
    with pytest.raises(stillhouse.StillhouseError, match="is failed"):
        stillhouse.BootstrapFinetune(client=client, **options).compile(student, [example(0), example(1)], teacher=teacher)
    return server.bodies("POST /v1/compile_jobs")[-1]


def places(lms: dict[str, Any]) -> list[tuple[str, str]]:
    return [(lm["connection"], lm["model"]) for lm in lms.values()]


class TestRules:
    def test_a_rule_of_the_server_stands_for_an_lm(self, server: Server, client: stillhouse.Stillhouse) -> None:
        server.rules = {"house": ["ollama/llama*"], "openai": ["mistral/*"]}
        body = body_of(server, client, desk("ollama/llama3"), desk("mistral/large"))
        assert (places(body["lms"]), places(body["teacher"][0]["lms"])) == ([("house", "tiny")], [("openai", "large")])

    def test_what_the_caller_says_goes_before_it(self, server: Server, client: stillhouse.Stillhouse) -> None:
        server.rules = {"openai": ["*"]}
        named = {"lms": {"ollama/llama3": "house/tiny"}, "teacher_lms": {"ollama/llama3": "openai/small", "reply": "house/tiny"}}
        body = body_of(server, client, desk("ollama/llama3"), desk("ollama/llama3"), **named)
        assert (places(body["lms"]), places(body["teacher"][0]["lms"])) == ([("house", "tiny")], [("openai", "small"), ("house", "tiny")])

    def test_by_predictor_it_is_said_of_the_student_alone(
        self, server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A teacher has predictors of the same names; one that is the student itself has its LMs."""
        lms = {"classify": "house/tiny", "reply": "house/tiny", "mistral/large": "openai/small"}
        body = body_of(server, client, desk("ollama/llama3"), desk("mistral/large"), lms=lms)
        assert (places(body["lms"]), places(body["teacher"][0]["lms"])) == ([("house", "tiny")], [("openai", "small")])
        assert "; taught by openai/small; " in capsys.readouterr().err
        student = desk("ollama/llama3")
        for teacher in (None, student):
            body = body_of(server, client, student, teacher, lms={"classify": "house/tiny", "reply": "house/tiny"})
            assert places(body["teacher"][0]["lms"]) == [("house", "tiny")]

    @pytest.mark.parametrize(
        ("option", "name", "meant"),
        [
            ("lms", "clasify", "do you mean 'classify'"),
            ("lms", "mistral/larg", "do you mean 'mistral/large'"),
            ("teacher_lms", "ollama/llama3", "there are classify, mistral/large, reply"),
        ],
    )
    def test_a_name_that_is_none_is_an_error(
        self, server: Server, client: stillhouse.Stillhouse, option: str, name: str, meant: str
    ) -> None:
        server.rules = {"house": ["*"]}
        given: dict[str, Any] = {option: {name: "house/tiny"}}
        optimizer = stillhouse.BootstrapFinetune(client=client, **given)
        with pytest.raises(ValueError, match=f"{option}: '{name}' is neither a predictor nor the model of an LM; {meant}"):
            optimizer.compile(desk("ollama/llama3"), [example(0)], teacher=desk("mistral/large"))
        assert not server.bodies("POST /v1/compile_jobs")

    def test_no_rule_takes_a_name_of_the_servers_own(self, server: Server, client: stillhouse.Stillhouse) -> None:
        server.rules = {"openai": ["*"]}
        assert places(body_of(server, client, desk("house/tiny"))["lms"]) == [("house", "tiny")]

    def test_two_connections_that_fit_as_well_are_named(self, server: Server, client: stillhouse.Stillhouse) -> None:
        server.rules = {"house": ["mistral/*"], "openai": ["mistral/*"]}
        with pytest.raises(NoConnection, match=r"classify +mistral/large +-\n(?s:.*)house \(`mistral/\*`\) and openai \(`mistral/\*`\)"):
            stillhouse.BootstrapFinetune(client=client).compile(desk("mistral/large"), [example(0)])
        assert not server.bodies("POST /v1/compile_jobs")

    @pytest.mark.parametrize("side", ["student", "teacher"])
    def test_an_lm_without_a_connection_is_told_with_the_fix(self, server: Server, client: stillhouse.Stillhouse, side: str) -> None:
        programs = {"student": desk("house/tiny"), "teacher": desk("house/tiny")}
        programs[side].reply.lm = dspy.LM("mistral/large")
        with pytest.raises(NoConnection) as caught:
            stillhouse.BootstrapFinetune(client=client).compile(trainset=[example(0)], **programs)
        told, word = str(caught.value), "lms" if side == "student" else "teacher_lms"
        assert f"no connection for an LM of the {side}" in told
        assert "classify   house/tiny     house/tiny\n" in told
        assert "reply      mistral/large  -\n" in told
        assert f'{word}={{"reply": "connection/model"}}' in told
        assert "`match` of a connection" in told

    def test_a_student_without_an_lm_of_its_own_is_refused_as_upstream_does(self, server: Server, client: stillhouse.Stillhouse) -> None:
        """Also where the app has configured one: what would be trained is the LM of the predictor."""
        student = desk("house/tiny")
        student.reply.lm = None
        wanted = r"Predictor 1 does not have an LM assigned\. .* You can set it using: your_module\.set_lm\(your_lm\)"
        with dspy.context(lm=dspy.LM("house/tiny")), pytest.raises(ValueError, match=wanted):
            stillhouse.BootstrapFinetune(client=client).compile(student, [example(0)])
        assert not server.sent

    def test_a_teacher_may_ask_the_lm_of_the_app(self, server: Server, client: stillhouse.Stillhouse) -> None:
        teacher = desk("house/tiny")
        teacher.set_lm(None)
        with dspy.context(lm=dspy.LM("openai/big")):
            assert places(body_of(server, client, desk("house/tiny"), teacher)["teacher"][0]["lms"]) == [("openai", "big")]

    @pytest.mark.parametrize(
        ("param", "said", "wanted"),
        [
            ("lms.student.connection", "nothing can be trained for it", "the student's LM house/tiny: nothing can be trained for it"),
            ("lms.student.max_tokens", "at least 1", "max_tokens of the student's LM house/tiny: at least 1"),
            ("teacher[0].lms.student", "this server has none", "the teacher's LM openai/big: this server has none"),
        ],
    )
    def test_a_refused_lm_is_named_as_the_program_names_it(
        self, server: Server, client: stillhouse.Stillhouse, param: str, said: str, wanted: str
    ) -> None:
        error = {"message": f"{param}: {said}", "code": "invalid_value", "param": param}
        server.refuses = {"POST estimate": httpx.Response(422, json={"error": error})}
        with pytest.raises(ValueError, match=re.escape(wanted)) as caught:
            stillhouse.BootstrapFinetune(client=client).compile(desk("house/tiny"), [example(0)], teacher=desk("openai/big"))
        assert str(caught.value) == f"{wanted} (422 invalid_value)"

    def test_each_name_is_asked_of_the_server_once(self, server: Server, client: stillhouse.Stillhouse) -> None:
        body_of(server, client, desk("house/tiny"), desk("openai/big"))
        assert len(server.bodies("GET /v1/connections/resolve")) == 2


class Guarded(dict[str, Any]):
    """The options of an LM, whose key nobody may read."""

    def __getitem__(self, name: str) -> Any:
        assert name != "api_key", "the user's key was read"
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        assert name != "api_key", "the user's key was read"
        return super().get(name, default)


class TestKeys:
    def test_a_key_of_the_users_lm_is_neither_read_nor_sent(self, server: Server, lm: ScriptedLM, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither one that the LM holds nor one of the environment: not to the server, not to its gateway, and not in a digest."""
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        seen: list[httpx.Request] = []

        def watched(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return server(request)

        def program(model: str, key: str) -> Any:
            made = desk(model)
            for predictor in made.predictors():
                predictor.lm = dspy.LM(model, api_key=key)
                predictor.lm.kwargs = Guarded(predictor.lm.kwargs)
            return made

        before = len(lm.calls)
        with stillhouse.Stillhouse(lm.url.removesuffix("/v1"), "sh_a_b", transport=httpx.MockTransport(watched)) as client:
            body = body_of(server, client, program("house/tiny", CANARY), program("openai/big", CANARY))
            ItemRun(client, item_of(body, [example(0)]), program("openai/big", CANARY), lambda *_: True).run()
            other = body_of(server, client, program("house/tiny", "sk-another"), program("openai/big", "sk-another"))
        sent = [f"{request.url} {dict(request.headers)} {request.content.decode()}" for request in seen]
        asked = [f"{call.headers} {json.dumps(call.body)}" for call in lm.calls[before:]]
        assert len(asked) == 2
        assert not [text for text in (*sent, *asked) if CANARY in text]
        assert other["metadata"] == body["metadata"]
