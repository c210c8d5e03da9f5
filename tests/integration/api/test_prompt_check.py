"""A compiled program's model is asked with its program's prompts, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from distill.catalog.models import Model
from distill.db import unit_of_work
from distill.messages import system_prompt_digest
from tests.integration.api.finished import MODEL, Finished, finish, load
from tests.support.scripted_lm import ScriptedLM

SYSTEM = "Your input fields are: 1. `message` (str):"
RENDERED = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "hello"}]


pytestmark = pytest.mark.lm_answers.with_args(lambda ask: f"I am {ask.model}")


@pytest.fixture
def finished(api: TestClient) -> Finished:
    made = finish(api)
    load(made)
    knows_its_prompt()
    return made


def knows_its_prompt() -> None:
    with unit_of_work() as s:
        s.execute(update(Model).where(Model.id == MODEL).values(settings={"system_prompts": [system_prompt_digest(SYSTEM)]}))


def ask(api: TestClient, messages: list[dict[str, Any]], **headers: str) -> Any:
    return api.post("/v1/chat/completions", json={"model": MODEL, "messages": messages}, headers=headers)


class TestCheck:
    @pytest.mark.parametrize(
        "first",
        [
            {"role": "system", "content": SYSTEM},
            {"role": "developer", "content": SYSTEM},
            {"role": "system", "content": [{"type": "text", "text": SYSTEM[:9]}, {"type": "text", "text": SYSTEM[9:]}]},
        ],
    )
    def test_a_rendered_prompt_is_answered(self, api: TestClient, finished: Finished, first: dict[str, Any]) -> None:
        assert ask(api, [first, RENDERED[1]]).status_code == 200

    @pytest.mark.parametrize(
        "messages",
        [
            [{"role": "user", "content": "hello"}],
            [{"role": "user", "content": SYSTEM}],
            [{"role": "system", "content": f"{SYSTEM} "}, {"role": "user", "content": "hello"}],
            [{"role": "system"}, {"role": "user", "content": "hello"}],
        ],
    )
    def test_another_is_refused_and_told_where_to_ask(
        self, api: TestClient, finished: Finished, lm: ScriptedLM, messages: list[dict[str, Any]]
    ) -> None:
        reply = ask(api, messages)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, "not_a_rendered_prompt", "messages")
        assert f"/v1/artifacts/{finished.artifact_id}/call" in error["message"]
        assert lm.calls == []

    def test_messages_that_are_no_objects_are_refused_by_their_place(self, api: TestClient, finished: Finished, lm: ScriptedLM) -> None:
        reply = api.post("/v1/chat/completions", json={"model": MODEL, "messages": ["hello"]})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_value", "messages[0]")
        assert lm.calls == []

    def test_a_header_lets_it_pass(self, api: TestClient, finished: Finished) -> None:
        assert ask(api, RENDERED[1:], **{"stillhouse-prompt-check": "off"}).status_code == 200
        assert ask(api, RENDERED[1:], **{"stillhouse-prompt-check": "on"}).status_code == 400
