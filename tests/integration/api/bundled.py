"""A small bundle, for tests that send one."""

from __future__ import annotations

import sys
from typing import Any

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SCORES = """
def right(example, prediction, trace=None):
    return prediction.category == example.category
"""
BUNDLE: dict[str, Any] = {"bundle_version": 1, "python": PYTHON, "files": {"desk/__init__.py": "", "desk/scores.py": SCORES}}
