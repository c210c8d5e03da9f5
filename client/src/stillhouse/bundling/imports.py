"""What a module imports, read from its text; nothing is run for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from stillhouse.bundling.code import absolute
from stillhouse.bundling.errors import NotSendable


def imported(text: str, module: str, is_package: bool, path: str) -> list[str]:
    """Names of modules, each once, also of imports inside of functions. Of `from a import b` both `a` and `a.b`, whichever is one.

    What is imported for type checkers alone is left out. Raises NotSendable for what is no Python of this version.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise NotSendable(f"{path} line {error.lineno}: {error.msg}") from None
    package = module if is_package else module.rpartition(".")[0]
    return list(dict.fromkeys(name for node in _run(tree) for name in _names(node, package)))


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node but what stands under `if TYPE_CHECKING:`."""
    below = node.orelse if isinstance(node, ast.If) and _for_checkers(node.test) else list(ast.iter_child_nodes(node))
    for each in below:
        yield each
        yield from _run(each)


def _for_checkers(test: ast.expr) -> bool:
    return ast.unparse(test).rpartition(".")[2] == "TYPE_CHECKING"


def _names(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        above = absolute("." * node.level + (node.module or ""), package)
        if above:
            yield above
            yield from (f"{above}.{alias.name}" for alias in node.names if alias.name != "*")
