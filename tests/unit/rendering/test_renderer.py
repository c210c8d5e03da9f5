"""A template that takes too much costs its own conversation; whatever becomes of the process, the next one is answered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engines.rendering import Bounds, Question, Renderer, RendererError, TemplateRefused

FOREVER = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"


def asked(template: str, content: str = "a") -> Question:
    return Question(template, {}, [{"role": "user", "content": content}], None, False)


ECHO = asked("{{ messages[0].content }}")


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    made = Renderer(Bounds(seconds=0.5, megabytes=64, characters=1000))
    yield made
    made.close()


def process_of(renderer: Renderer) -> psutil.Process:
    assert renderer._process is not None
    return psutil.Process(renderer._process._child.pid)


def told(renderer: Renderer, questions: list[Question]) -> list[str]:
    return [str(answer) for answer in renderer.render(questions)]


def pretender(folder: Path, does: str) -> Path:
    """A program that is ready, and then does something else."""
    place = folder / "program.py"
    place.write_text(f"import sys\nprint('{{\"ready\": true}}', flush=True)\n{does}\n")
    return place


class TestWhatTakesTooMuch:
    @pytest.mark.parametrize(
        ("template", "why"),
        [
            (FOREVER, "it takes more than 0.5 s of processor time"),
            ("{{ 10 ** (10 ** 9) }}", "it takes more than 0.5 s of processor time"),
            ("{{ 'x' * 10**9 }}", "it takes more than 64 MB of memory"),
            ("{{ 'x' * 1001 }}", "it makes 1,001 characters, and at most 1,000 are read"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
        ],
    )
    def test_costs_itself_alone(self, renderer: Renderer, template: str, why: str) -> None:
        answers = renderer.render([ECHO, asked(template), ECHO])
        assert (answers[0], answers[2]) == ("a", "a")
        assert isinstance(answers[1], TemplateRefused)
        assert why in str(answers[1])

    def test_what_an_error_says_is_cut(self, renderer: Renderer) -> None:
        (answer,) = renderer.render([asked("{{ raise_exception('x' * 100000) }}")])
        assert isinstance(answer, TemplateRefused)
        assert str(answer) == "x" * 2000


class TestProcess:
    def test_one_that_has_ended_is_started_again(self, renderer: Renderer) -> None:
        assert told(renderer, [ECHO]) == ["a"]
        before = process_of(renderer)
        before.kill()
        before.wait(60)
        assert told(renderer, [ECHO, ECHO]) == ["a", "a"]
        assert process_of(renderer).pid != before.pid

    @pytest.mark.parametrize(
        ("does", "patience", "why"),
        [("sys.stdin.read()", 0.5, "it takes longer than 0.5 s"), ("sys.stdin.readline()", 60, "the process that renders it ended twice")],
    )
    def test_one_that_answers_nothing_is_ended(self, tmp_path: Path, does: str, patience: float, why: str) -> None:
        renderer = Renderer(Bounds(patience=patience), pretender(tmp_path, does))
        assert told(renderer, [ECHO, ECHO]) == [why, why]
        assert renderer._process is None

    def test_many_conversations_go_in_lines_of_bounded_length(self, renderer: Renderer) -> None:
        contents = [f"{number}" + " " * 900 for number in range(600)]
        assert told(renderer, [asked("{{ messages[0].content }}", content) for content in contents]) == contents

    def test_tools_are_of_that_length_too(self, renderer: Renderer) -> None:
        tools = [{"type": "function", "function": {"name": "look", "description": " " * 200_000}}]
        asking = Question("{{ tools | length }}", {}, [{"role": "user", "content": "a"}], tools, False)
        assert told(renderer, [asking] * 200) == ["1"] * 200

    @pytest.mark.parametrize(
        ("program", "why"),
        [
            ("import sys; sys.exit(3)", "its log says why"),
            ("print('hello from sitecustomize')", "does not start"),
            ("print(5)", "something else writes into its answers"),
            ('print(\'{"failed": "it cannot lock itself in"}\')', "does not start: it cannot lock itself in"),
        ],
    )
    def test_one_that_does_not_start_is_no_fault_of_the_template(self, tmp_path: Path, program: str, why: str) -> None:
        place = tmp_path / "program.py"
        place.write_text(program)
        renderer = Renderer(program=place)
        for _ in range(2):
            with pytest.raises(RendererError, match=why):
                renderer.render([ECHO])

    @pytest.mark.parametrize("answer", ["no JSON", '{"text": 1}', '{"refused": "x"}', "[]", "[" * 70_000, "x" * 200_000])
    def test_what_one_says_that_was_taken_over_is_not_believed(self, tmp_path: Path, answer: str) -> None:
        renderer = Renderer(Bounds(characters=1000), pretender(tmp_path, f"print({answer!r}, flush=True); sys.stdin.read()"))
        (refused,) = renderer.render([ECHO])
        assert isinstance(refused, TemplateRefused)
        assert renderer._process is None

    def test_it_ends_with_who_asks_also_in_the_middle_of_a_template(self) -> None:
        ask = (
            "import os, signal, sys, threading\n"
            "from engines.rendering import Bounds, Question, Renderer\n"
            "renderer = Renderer(Bounds(seconds=1000, patience=1000))\n"
            "renderer.render([Question('a', {}, [{'role': 'user', 'content': 'a'}], None, False)])\n"
            "print(renderer._process._child.pid, flush=True)\n"
            f"renderer.render([Question({FOREVER!r}, {{}}, [{{'role': 'user', 'content': 'a'}}], None, False)])\n"
        )
        with subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) as asker:
            assert asker.stdout is not None
            rendering = psutil.Process(int(asker.stdout.readline()))
            asker.kill()
        _, alive = psutil.wait_procs([rendering], timeout=60)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
