"""Calls that no code of ours makes, whatever a comment tells the linter: each let somebody in elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.security.sources import sources

#: What is banned, and the door it opened: the records are those of the module table in `records.py`.
CALLS = {
    "torch.load": "runs code even with weights_only=True before 2.6 (CVE-2025-32434); read safetensors",
    "pickle.load": "runs code (CVE-2025-53002, CVE-2024-2912); exchange JSON",
    "pickle.loads": "runs code; exchange JSON",
    "pickle.Unpickler": "runs code; exchange JSON",
    "marshal.loads": "runs code; exchange JSON",
    "shelve.open": "runs code; exchange JSON",
    "joblib.load": "runs code; exchange JSON",
    "numpy.load": "may run code; exchange JSON or safetensors",
    "cloudpickle.load": "runs code; exchange JSON",
    "cloudpickle.loads": "runs code; exchange JSON",
    "yaml.load": "may make any object; use yaml.safe_load",
    "os.system": "takes a shell (CVE-2024-52803); start a list of arguments",
    "os.popen": "takes a shell; start a list of arguments",
    "subprocess.getoutput": "takes a shell; start a list of arguments",
    "tempfile.mktemp": "a name that another may take first (CVE-2022-0736)",
    "eval": "runs code",
}
METHODS = {
    "extractall": "writes where the archive says (CVE-2025-15031); read the members that are wanted",
    "unpack_archive": "writes where the archive says (CVE-2025-15031); read the members that are wanted",
}
KEYWORDS = {
    ("shell", True): "takes a shell (CVE-2024-52803); start a list of arguments",
    ("trust_remote_code", True): "runs the code of a model's folder (CVE-2026-4372)",
    ("allow_pickle", True): "runs code",
    ("allow_unsafe_lm_state", True): "a saved program would name the address that gets our key",
}


EXEMPT = {
    ("programs/src/stillhouse_programs/bundles.py", "cloudpickle.loads"): 1,
}
"""Where one is made after all, and how often: what was sent by value is opened in the runner, which is locked into its sandbox."""


def broken(source: str) -> list[str]:
    return [f"line {line}: {what}" for line, what in sorted(_found(ast.parse(source)))]


def _found(tree: ast.AST) -> Iterator[tuple[int, str]]:
    names = _imported(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        head, _, rest = called.partition(".")
        full = names.get(head, head) + (f".{rest}" if rest else "")
        if full in CALLS:
            yield call.lineno, f"{full} {CALLS[full]}"
        if (method := called.rpartition(".")[2]) in METHODS:
            yield call.lineno, f"{method} {METHODS[method]}"
        for keyword in call.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if value is True and (why := KEYWORDS.get((keyword.arg or "", True))):
                yield call.lineno, f"{keyword.arg}=True {why}"
        if called.rpartition(".")[2] in {"text", "execute", "exec_driver_sql"} and call.args and _is_built(call.args[0]):
            yield call.lineno, "SQL from an f-string (CVE-2026-42208); bind its values"


def _is_built(argument: ast.expr) -> bool:
    """An f-string with something in it that is not a constant of a module."""
    parts = argument.values if isinstance(argument, ast.JoinedStr) else []
    return any(isinstance(part, ast.FormattedValue) and not ast.unparse(part.value).rpartition(".")[2].isupper() for part in parts)


def _imported(tree: ast.AST) -> dict[str, str]:
    """Names as this file knows them, and what they are."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(
                {
                    alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
                    for alias in node.names
                }
            )
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def faults(word: str) -> dict[str, list[str]]:
    """Of all our code, but for what is exempt; `word` is part of the rule."""
    found = {name: [fault for fault in broken(source) if word in fault] for name, source in sources()}
    return {name: left for name, lines in found.items() if (left := _not_exempt(name, lines))}


def _not_exempt(name: str, lines: list[str]) -> list[str]:
    """One more than what is exempt, and all of them are left."""
    exempt = {rule: most for (where, rule), most in EXEMPT.items() if where == name}
    of_rule = {rule: [line for line in lines if f" {rule} " in line] for rule in exempt}
    forgiven = [line for rule, found in of_rule.items() if len(found) <= exempt[rule] for line in found]
    return [line for line in lines if line not in forgiven]


def test_no_code_of_ours_makes_one() -> None:
    assert len(dict(sources())) > 300
    assert faults("") == {}


@pytest.mark.record("CVE-2025-32434")
def test_weights_are_never_unpickled() -> None:
    assert faults("torch.load") == {}


@pytest.mark.record("CVE-2025-15031")
def test_no_archive_is_unpacked_where_it_says() -> None:
    assert faults("extractall") == {}


@pytest.mark.record("GHSA-dspy-pickle")
def test_no_saved_program_is_code_or_names_an_address() -> None:
    assert faults("allow_") == {}


@pytest.mark.record("CVE-2026-41523")
def test_no_guard_is_an_assertion() -> None:
    """The few that are there help the type checker and say so. Measurements and examples guard nothing."""
    for name, source in sources():
        if name.startswith(("bench/", "examples/")):
            continue
        lines = source.splitlines()
        asserts = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
        assert all("for the type checker" in lines[line - 1] for line in asserts), name


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "from pickle import loads as read\nread(b'')",
        "import numpy as np\nnp.load('x')",
        "import subprocess\nsubprocess.run('ls', shell=True)  # noqa",
        "from transformers import AutoModel\nAutoModel.from_pretrained('x', trust_remote_code=True)",
        "session.execute(f'select {name}')",
        "from sqlalchemy import text\ntext(f'select {name}')",
        "eval('1')",
        "import tarfile\ntarfile.open('x').extractall()",
    ],
)
def test_each_would_be_found(source: str) -> None:
    assert broken(source)
