"""What the built-in metrics compute, and how a metric's answer is read."""

import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from stillhouse_programs.reference import make_reference_metric
from stillhouse_programs.spec import F1, ClientMetric, ExactMatch, FieldEquals, MetricSpec, ReferenceMetric, SpecError, parse_metric

Metric = Callable[..., Any]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Inconclusive:
    """The type of INCONCLUSIVE."""

    def __repr__(self) -> str:
        return "INCONCLUSIVE"


# What a metric returns when it cannot tell: the row is neither kept nor counted.
INCONCLUSIVE = Inconclusive()


class NoLabel(ValueError):
    """A row lacks the label that a built-in metric compares with."""


@dataclass(frozen=True)
class Score:
    """What a metric said of one trace. `value` is None unless `status` is ok; `passed` already counts `min_score` in."""

    value: float | None
    passed: bool
    status: Literal["ok", "inconclusive", "failed"]
    feedback: str | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {"value": self.value, "passed": self.passed, "status": self.status, "feedback": self.feedback, "error": self.error}


def make_metric(spec: Any, allowed: Sequence[str] | None = None) -> Metric:
    """Build a metric from its name or spec, called with `(example, prediction, trace)`.

    Both may be mappings or dspy objects. Raises SpecError for an unknown metric, and for one that is code and not in a package of
    `allowed`; a built-in metric raises NoLabel for a row without a label to compare with.
    """
    metric: MetricSpec = parse_metric(spec)
    if isinstance(metric, ReferenceMetric):
        return make_reference_metric(metric, allowed or [])
    if isinstance(metric, ClientMetric):
        raise SpecError("metric: it runs in the process of its caller alone", "metric")
    built_in: ExactMatch | F1 | FieldEquals = metric

    def score(example: Any, prediction: Any, trace: Any = None) -> bool | float:
        return _score(built_in, _values(example), _values(prediction))

    return score


def _score(metric: ExactMatch | F1 | FieldEquals, labels: Mapping[str, Any], outputs: Mapping[str, Any]) -> bool | float:
    if isinstance(metric, ExactMatch):
        names = metric.fields or [name for name in outputs if name in labels]
        if not names:
            raise NoLabel("the row has no label for any output of the program")
        return all(_comparable(_label(labels, name)) == _comparable(outputs.get(name)) for name in names)
    label, output = _label(labels, metric.field), outputs.get(metric.field)
    if isinstance(metric, F1):
        return token_f1(_as_text(output), _as_text(label))
    return bool(_fold(output, metric.ignore_case, metric.strip) == _fold(label, metric.ignore_case, metric.strip))


def _values(holder: Any) -> Mapping[str, Any]:
    return holder if isinstance(holder, Mapping) else dict(holder.items())


def _label(labels: Mapping[str, Any], name: str) -> Any:
    if labels.get(name) is None:
        raise NoLabel(f"the row has no label `{name}`")
    return labels[name]


def _comparable(value: Any) -> Any:
    """Typed outputs and JSON labels meet as JSON: an Enum as its value, a model as an object, a set without order."""
    if isinstance(value, (set, frozenset)):
        return sorted((_comparable(item) for item in value), key=repr)
    return to_jsonable_python(value, fallback=str)


def _fold(value: Any, ignore_case: bool, strip: bool) -> Any:
    plain = _comparable(value)
    if not isinstance(plain, str):
        return plain
    plain = plain.strip() if strip else plain
    return plain.casefold() if ignore_case else plain


def _as_text(value: Any) -> str:
    plain = _comparable(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def token_f1(output: str, label: str) -> float:
    """Token F1 of two texts, 0 to 1; lower-cased, without punctuation and articles. Two empty texts are equal."""
    mine, theirs = _tokens(output), _tokens(label)
    if not mine or not theirs:
        return float(mine == theirs)
    common = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs))


def _tokens(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


# ------------------------------------------------------------------ reading what a metric returns


def read_score(value: Any, min_score: float = 1.0) -> Score:
    """Read what a metric returned.

    True passes and False does not; a number passes when it is at least `min_score`; anything with `.score` counts by that, and
    its `.feedback` is kept. None and INCONCLUSIVE are neither kept nor counted. NaN, text and the rest fail the row.
    """
    feedback = _feedback(value)
    inner = _inner_score(value)
    if inner is None or isinstance(inner, Inconclusive):
        return Score(None, False, "inconclusive", feedback)
    if isinstance(inner, bool):
        return Score(float(inner), inner, "ok", feedback)
    number = _number(inner)
    if number is None:
        return Score(None, False, "failed", feedback, f"the metric returned {_shown(inner)}, expected a number, True or False")
    return Score(number, number >= min_score, "ok", feedback)


def _inner_score(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, Mapping):
        return value.get("score", value)
    try:
        return value.score
    except (AttributeError, KeyError):
        return value


def _feedback(value: Any) -> str | None:
    if isinstance(value, Mapping):
        found = value.get("feedback")
    else:
        try:
            found = value.feedback
        except (AttributeError, KeyError):
            found = None
    return None if found is None else str(found)


def _number(value: Any) -> float | None:
    """Read a number, numpy's included; text that looks like one is not one."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'…' if len(text) > 80 else ''}"
