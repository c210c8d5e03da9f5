"""A production service: it loads by alias at its start, answers by `acall`, and knows what an outage looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import dspy
import httpx
import pytest
from dspy.lm15 import unregister_provider

import stillhouse
from tests.integration.execute.house import SUPPORT, rows
from tests.integration.execute.journeys.conftest import Live
from tests.support.scripted_lm import Fail

INPUTS = {"message": "I ask about billing"}


@pytest.fixture(autouse=True)
def own_providers() -> Iterator[None]:
    yield
    for name in ("tune", "house"):
        unregister_provider(name)


def compiled() -> str:
    """Somebody has compiled and promoted: the id of the artifact behind `support-router@prod`."""
    with stillhouse.Stillhouse() as client:
        job = client.compile_jobs.create(
            program=SUPPORT,
            program_name="support-router",
            trainset=rows(12),
            metric={"type": "exact_match", "fields": ["category"]},
        )
        job = client.compile_jobs.wait(job.id, timeout=300)
        assert job.artifact is not None, job
        client.aliases.move("support-router@prod", job.artifact.id)
        return job.artifact.id


def ask(live: Live, model: str, **headers: str) -> Any:
    """As a client of OpenAI's does that knows nothing of programs."""
    body = {"model": model, "messages": [{"role": "user", "content": "I was charged twice"}]}
    key = {"Authorization": f"Bearer {live.key('models:use')}"}
    return httpx.post(f"{live.url}/v1/chat/completions", json=body, headers={**key, **headers}, timeout=60)


@pytest.mark.slow
class TestService:
    def test_from_its_start_to_a_restart_without_a_server(
        self, live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        artifact = compiled()
        monkeypatch.setenv("STILLHOUSE_API_KEY", live.key("models:use"))
        before = len(live.house.student.calls)
        router = stillhouse.load("support-router@prod", strict=True, warm=True)
        assert len(live.house.student.calls) == before, "to wait for its models asks them nothing"
        lms = [predictor.lm for predictor in router.predictors()]
        assert all(lm.model.startswith("tune/sh-") and not lm.cache for lm in lms)

        before = len(live.house.student.calls)
        with dspy.context(adapter=dspy.JSONAdapter()):
            out = asyncio.run(router.acall(**INPUTS))
        assert (out.category, out.answer) == ("billing", "Team billing will help.")
        asked = live.house.student.calls[before:]
        assert [f"tune/{call.body['model']}" for call in asked] == [lm.model for lm in lms]
        assert all("[[ ## completed ## ]]" in call.body["messages"][-1]["content"] for call in asked), "its own prompt, not the app's JSON"

        with pytest.raises(TypeError, match="the program lacks message"):
            router(text="I was charged twice")
        assert len(live.house.student.calls) == before + 2, "nothing was paid for it"

        self.check_plain_text(live, artifact)
        self.check_outage(live, router)
        self.check_restart(live, caplog)

    def check_plain_text(self, live: Live, artifact: str) -> None:
        before = len(live.house.student.calls)
        error = ask(live, "support-router.classify@prod").json()["error"]
        assert (error["code"], f"/v1/artifacts/{artifact}/call" in error["message"]) == ("not_a_rendered_prompt", True)
        assert len(live.house.student.calls) == before
        assert ask(live, "support-router.classify@prod", **{"stillhouse-prompt-check": "off"}).status_code == 200

    def check_outage(self, live: Live, router: Any) -> None:
        for predictor in router.predictors():
            predictor.lm.num_retries = 0  # dspy's own pauses between its tries are not what is shown
        before = len(live.house.student.calls)
        live.house.student.fault = Fail(503, retry_after=7)
        with pytest.raises(stillhouse.ModelUnavailable) as outage:
            asyncio.run(router.acall(**INPUTS))
        assert outage.value.code
        assert outage.value.retry_after
        self.check_fallback(live)
        live.house.student.fault = None
        own = {predictor.lm.model.removeprefix("tune/") for predictor in router.predictors()}
        assert {call.body["model"] for call in live.house.student.calls[before:]} <= own, "the base model answers for no other"

    def check_fallback(self, live: Live) -> None:
        taught, before = stillhouse.load("support-router@prod", fallback="teacher"), len(live.house.teacher.calls)
        for predictor in taught.predictors():
            predictor.lm.num_retries = 0
        assert taught(**INPUTS).category == "billing"
        assert taught.fallbacks == 1
        assert len(live.house.teacher.calls) == before + 2

    def check_restart(self, live: Live, caplog: pytest.LogCaptureFixture) -> None:
        live.stop()
        again = stillhouse.load("support-router@prod", strict=True)
        assert "as it last did" in caplog.text
        for predictor in again.predictors():
            predictor.lm.num_retries = 0
        with pytest.raises(stillhouse.ModelUnavailable):
            again(**INPUTS)
