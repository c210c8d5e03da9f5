"""What travels with the calls of a loaded program beside dspy's own options: default bounds, and the prompt check of saved programs."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import unregister_provider

from stillhouse_programs.artifact import KEY_VARIABLE, load_artifact
from tests.unit.programs.samples import Support
from tests.unit.programs.scripted_server import Scripted, scripted_server
from tests.unit.programs.test_artifact import files_of, write


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setenv(KEY_VARIABLE, "k")
    with scripted_server() as scripted:
        yield scripted
    unregister_provider("tune")


class TestDefaultBound:
    """As in a job's evaluation, a prompt that leaves less room than the default bound is asked once more without it."""

    def _loaded(self, folder: Path, server: Scripted, **options: Any) -> Any:
        tuned = {"lm_role": "student", "answer_tokens": 64}
        write(folder, files_of(), predictors={"classify.predict": tuned, "reply": tuned}, lms={"student": {"options": options}})
        server.room = 10
        return load_artifact(folder, server.base_url)

    @pytest.mark.parametrize("code", ["context_length_exceeded", None])
    def test_without_room_for_it_a_call_is_made_once_more(self, tmp_path: Path, server: Scripted, code: str | None) -> None:
        server.too_long = code
        assert self._loaded(tmp_path, server)(message="hi").answer == "answer!"
        assert server.bounds == [64, None, 64, None]
        assert not any("metadata" in body for _, _, body in server.requests)

    def test_so_is_one_in_a_task(self, tmp_path: Path, server: Scripted) -> None:
        assert asyncio.run(self._loaded(tmp_path, server).acall(message="hi")).answer == "answer!"
        assert server.bounds == [64, None, 64, None]

    @pytest.mark.parametrize("is_async", [False, True])
    def test_so_is_a_stream(self, tmp_path: Path, server: Scripted, is_async: bool) -> None:
        reply = self._loaded(tmp_path, server).reply
        listener = dspy.streaming.StreamListener(signature_field_name="answer")

        async def last() -> Any:
            stream = dspy.streamify(reply, stream_listeners=[listener], is_async_program=is_async)
            return [part async for part in stream(message="hi", category="billing")][-1]

        assert asyncio.run(last()).answer == "answer!"
        assert server.bounds == [64, None]

    @pytest.mark.parametrize("where", ["job", "call"])
    def test_a_bound_of_the_users_own_is_kept(self, tmp_path: Path, server: Scripted, where: str) -> None:
        reply = self._loaded(tmp_path, server, **({"max_tokens": 64} if where == "job" else {})).reply
        with contextlib.suppress(dspy.ContextWindowExceededError):
            reply(message="hi", category="billing", config={"max_tokens": 64} if where == "call" else {})
        assert set(server.bounds) == {64}


class TestSaved:
    """A saved program is asked under the prompt adapter of the app that loads it, so its prompts are checked."""

    def _saved(self, folder: Path, server: Scripted, changed: bool) -> Path:
        write(folder, files_of())
        program: Any = load_artifact(folder, server.base_url).deepcopy()
        if changed:
            program.reply.signature = program.reply.signature.with_instructions("Be brief.")
        program.save(folder / "tuned.json")
        return folder / "tuned.json"

    @pytest.mark.parametrize("is_async", [False, True])
    def test_instructions_that_were_changed_are_not_checked(self, tmp_path: Path, server: Scripted, is_async: bool) -> None:
        program: Any = Support()
        program.load(self._saved(tmp_path, server, changed=True))
        for predictor, inputs in ((program.classify, {"message": "hi"}), (program.reply, {"message": "hi", "category": "billing"})):
            asyncio.run(predictor.acall(**inputs)) if is_async else predictor(**inputs)
        assert server.checks == [None, "off"]
        assert not any("metadata" in body for _, _, body in server.requests)

    def test_so_it_is_when_it_is_saved_again(self, tmp_path: Path, server: Scripted) -> None:
        program, again = Support(), Support()
        program.load(self._saved(tmp_path, server, changed=True))
        program.save(tmp_path / "again.json")
        again.load(tmp_path / "again.json")
        again(message="hi")
        assert server.checks == [None, "off"]

    def test_another_lm_is_told_nothing(self, tmp_path: Path, server: Scripted) -> None:
        write(tmp_path, files_of())
        program: Any = load_artifact(tmp_path, server.base_url)
        program.reply.signature = program.reply.signature.with_instructions("Be brief.")
        program.reply.lm = dspy.LM("openai/big", api_key="k")
        assert "metadata" not in program.dump_state()["reply"]["lm"]

    def test_prompts_that_were_trained_are_checked(self, tmp_path: Path, server: Scripted) -> None:
        program = Support()
        program.load(self._saved(tmp_path, server, changed=False))
        program(message="hi")
        assert server.checks == [None, None]
