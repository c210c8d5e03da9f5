"""The names of an evaluation's reference scores, and what a verdict adds about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAMES = {"majority_class": "majority class", "tfidf": "TF-IDF"}


def named(references: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each reference with the name that people read."""
    return ((name, references[key]) for key, name in NAMES.items() if references and key in references)


def not_beaten(delta: Mapping[str, Any], references: Mapping[str, Any] | None) -> str:
    """`, but not better than TF-IDF` after the verdict `better`, where that is so; else nothing."""
    names = [name for name, found in named(references) if found["delta"]["verdict"] != "better"]
    return f", but not better than {' or '.join(names)}" if names and delta["verdict"] == "better" else ""
