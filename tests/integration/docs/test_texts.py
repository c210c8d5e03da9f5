"""What the documents name exists: files, links, targets, commands, settings."""

import re
import shlex
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from distill.settings import Settings
from stack.cli import app as server_cli
from stillhouse.cli.main import app as client_cli
from tests.integration.docs.documents import PAGES, ROOT, RUN, blocks

_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
_PATH = re.compile(r"`((?:app|workers|distill|engines|programs|client|stack|migrations)/[\w/.]+\.py)`")
_INLINE = re.compile(r"`(stillhouse(?:-server)? [a-z][^`]*)`")
_FREE = ("cp", "docker", "source", "systemctl")
"""Commands in `console` blocks that are not ours."""


def _lines(path: str) -> Iterator[str]:
    for block in blocks(path, "console"):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _assert_known(line: str) -> None:
    """A command of ours: its verbs and options exist. Raises AssertionError."""
    name, *words = shlex.split(line.replace("…", ""))
    command: Any = get_command(server_cli if name == "stillhouse-server" else client_cli)
    while (commands := _below(command)) and words:
        verb = words.pop(0)
        assert verb in commands, f"{line}: no command {verb}"
        command = commands[verb]
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in words if word.startswith("-") and word not in known]
    assert not unknown, f"{line}: no option {', '.join(unknown)}"


def _below(command: Any) -> Mapping[str, Any]:
    return getattr(command, "commands", {})


class TestMap:
    def test_every_file_exists(self) -> None:
        named = _PATH.findall((ROOT / "docs/map.md").read_text())
        assert len(named) > 50
        assert [path for path in named if not (ROOT / path).is_file()] == []

    def test_every_step_that_runs_code_is_on_it(self) -> None:
        text = (ROOT / "docs/map.md").read_text()
        from distill.execute.steps import STEPS

        assert [run.__module__ for run in STEPS.values() if run.__module__.replace(".", "/") not in text] == []


class TestLinks:
    @pytest.mark.parametrize("page", PAGES)
    def test_every_local_link_leads_somewhere(self, page: str) -> None:
        here = (ROOT / page).parent
        assert [link for link in _LINK.findall((ROOT / page).read_text()) if not (here / link).exists()] == []

    def test_every_page_is_reached_from_the_readme(self) -> None:
        reached, waiting = set[Path](), [ROOT / "README.md"]
        while waiting:
            page = waiting.pop()
            if page in reached:
                continue
            reached.add(page)
            links = [(page.parent / link).resolve() for link in _LINK.findall(page.read_text())]
            waiting += [link for link in links if link.suffix == ".md"]
            waiting += [each for link in links if link.is_dir() for each in link.glob("*.md")]
        assert {page for page in PAGES if (ROOT / page) not in reached} == set()


class TestConsole:
    """`console` blocks start servers and install things, so they are not run; what they name must exist."""

    @pytest.mark.parametrize("page", RUN)
    def test_only_known_commands(self, page: str) -> None:
        for line in _lines(page):
            words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
            if words[0] == "make":
                assert words[1] in _targets(), line
            elif words[0].startswith("stillhouse"):
                _assert_known(line)
            else:
                assert words[0] in _FREE, line

    @pytest.mark.parametrize("page", RUN)
    def test_commands_in_the_text(self, page: str) -> None:
        for command in _INLINE.findall((ROOT / page).read_text()):
            _assert_known(command)

    def test_a_wrong_option_is_noticed(self) -> None:
        with pytest.raises(AssertionError, match="no option --thread"):
            _assert_known("stillhouse-server worker --thread 4")
        with pytest.raises(AssertionError, match="no command publish"):
            _assert_known("stillhouse artifacts publish art-1")


class TestSettings:
    @pytest.mark.parametrize("page", RUN)
    def test_every_toml_block_is_a_settings_file(self, page: str) -> None:
        for block in blocks(page, "toml"):
            assert Settings(**tomllib.loads(block)).model_fields_set


class TestImages:
    @pytest.mark.parametrize("image", sorted(path.name for path in (ROOT / "docs/images").iterdir()))
    def test_an_image_says_what_it_shows(self, image: str) -> None:
        root = ElementTree.parse(ROOT / "docs/images" / image).getroot()  # noqa: S314 - our own file
        space = "{http://www.w3.org/2000/svg}"
        assert root.findtext(f"{space}title")
        assert root.findtext(f"{space}desc")
