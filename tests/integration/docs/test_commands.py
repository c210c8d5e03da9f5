"""Every command and program in the documents does what the document says, on a running server."""

import pytest

from tests.integration.docs.conftest import CONNECT, KEY
from tests.integration.docs.documents import RUN, Shell, run_document
from tests.support.scripted_lm import ScriptedLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GPU = "docs/how-to/gpu.md"
"""Its commands start containers that need a GPU; test_texts.py checks what they name."""


class TestDocuments:
    @pytest.mark.parametrize("path", [path for path in RUN if path not in (CONNECT, GPU)])
    def test_every_block_runs(self, path: str, reader: Shell) -> None:
        assert run_document(path, reader) >= 1


class TestShell:
    def test_a_failing_command_is_told_with_what_it_printed(self, reader: Shell) -> None:
        printed, finished = reader.run("echo before; false; echo after")
        assert not finished
        assert "before" in printed
        assert "after" not in printed


class TestProvider:
    def test_the_named_teacher_is_asked_with_the_key_of_its_variable(self, reader: Shell, provider: ScriptedLM) -> None:
        run_document(CONNECT, reader)
        assert {call.body["model"] for call in provider.calls} == {"gpt-4.1-mini"}
        assert {call.headers["Authorization"] for call in provider.calls} == {f"Bearer {KEY}"}
