"""The blocks of the documents, and running them as a reader would: shell and Python blocks of one document in order, in one session."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from sybil import Sybil
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).parents[3]
RUN = (
    "README.md",
    "docs/quickstart.md",
    "docs/how-it-works.md",
    *sorted(f"docs/how-to/{path.name}" for path in (ROOT / "docs/how-to").glob("*.md")),
)
"""Documents whose blocks are executed."""
PAGES = tuple(sorted({*RUN, "CONTRIBUTING.md", "SECURITY.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))}))
_DONE = "-- block done --"


class Shell:
    """One bash that stops at the first failing command; what a block sets, later blocks see."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._script = folder / ".block.sh"
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=dict(environment),
        )
        self._write("set -euo pipefail\n")

    def run(self, text: str) -> tuple[str, bool]:
        """What a block prints, and whether it came to its end."""
        self._script.write_text(text)
        self._write(f". {self._script} </dev/null; echo; echo '{_DONE}'\n")
        printed: list[str] = []
        for line in cast("IO[str]", self._process.stdout):
            if line.rstrip("\n") == _DONE:
                return "".join(printed), True
            printed.append(line)
        return "".join(printed), False

    def _write(self, text: str) -> None:
        stdin = cast("IO[str]", self._process.stdin)
        stdin.write(text)
        stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            cast("IO[str]", stream).close()
        self._process.kill()
        self._process.wait()


def blocks(path: str, language: str) -> list[str]:
    """The texts of a document's blocks of one language."""
    document = Sybil([CodeBlockParser(language, _nothing)]).parse(ROOT / path)
    return [str(example.parsed) for example in document.examples()]


def run_document(path: str, shell: Shell) -> int:
    """Run a document's `sh` and `python` blocks in order; how many there were. Raises SybilFailure at the first that fails."""

    def run_shell(example: Example) -> str | None:
        text, finished = shell.run(str(example.parsed))
        return None if finished else f"a command failed; the block printed:\n{text}"

    document: Document = Sybil([CodeBlockParser("sh", run_shell), PythonCodeBlockParser()]).parse(ROOT / path)
    document.namespace["__name__"] = "__main__"
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    return len(examples)


def _nothing(_: Example) -> None:
    return None
