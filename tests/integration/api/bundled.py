"""A small bundle, for tests that send one."""

from __future__ import annotations

from typing import Any

from tests.support.bundles import PYTHON

SCORES = """
def right(example, prediction, trace=None):
    return prediction.category == example.category
"""
BUNDLE: dict[str, Any] = {"bundle_version": 1, "python": PYTHON, "files": {"desk/__init__.py": "", "desk/scores.py": SCORES}}
