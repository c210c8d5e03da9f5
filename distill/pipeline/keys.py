"""One training a key: which predictors share a fine-tune job, and what its model is called."""

import re
from base64 import b32encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

SHARED = ""
_SLUG_LENGTH = 40


@dataclass(frozen=True)
class Predictor:
    """A predictor of the student and the name of the LM it uses."""

    name: str
    lm: str


@dataclass(frozen=True)
class Key:
    """What one fine-tune job trains: `predictor` is '' when several predictors may share it."""

    lm_key: str
    predictor: str
    lm: str
    predictors: tuple[str, ...]

    @property
    def id(self) -> tuple[str, str]:
        return self.lm_key, self.predictor


def fine_tune_keys(predictors: Iterable[Predictor], lm_keys: Mapping[str, str], multitask: bool) -> tuple[Key, ...]:
    """The keys of a job, in predictor order.

    `lm_keys` maps an LM's name to the digest of all that is trained. With `multitask`, predictors of equal digest share one key; a key's
    rows are those of its own predictors only.
    """
    grouped: dict[tuple[str, str], list[Predictor]] = {}
    for predictor in predictors:
        key = (lm_keys[predictor.lm], SHARED if multitask else predictor.name)
        grouped.setdefault(key, []).append(predictor)
    return tuple(Key(lm_key, name, members[0].lm, tuple(m.name for m in members)) for (lm_key, name), members in grouped.items())


def key_of(keys: Iterable[Key]) -> dict[str, Key]:
    """Each predictor's key."""
    return {name: key for key in keys for name in key.predictors}


def model_id(program_name: str, key: Key, fine_tune_job_id: str, suffix: str | None = None) -> str:
    """The name a fine-tuned model is served under: `sh-<program>-<predictor>-<8 characters>`, unique for ever.

    The tail is a digest of the fine-tune job's id, so a repeated publish names the same model. The leading word keeps the id clear of the
    patterns by which dspy recognises reasoning models.
    """
    parts = ["sh", slug(program_name), slug(key.predictor or key.lm), *([slug(suffix)] if suffix else []), _tail(fine_tune_job_id)]
    return "-".join(part for part in parts if part)


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens; at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:_SLUG_LENGTH].strip("-")


def _tail(text: str) -> str:
    return b32encode(sha256(text.encode()).digest()).decode().lower()[:8]
