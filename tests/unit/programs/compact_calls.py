"""Signatures and values for tests of the compact prompt adapter."""

import datetime
import enum
from typing import Any, Literal, cast

import dspy
from hypothesis import strategies as st

from tests.unit.programs.samples import Item, Order, Price


class Colour(enum.Enum):
    RED = "red"
    LINES = "two\nlines"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


def signature_of(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """A signature with fields of these types."""
    fields = {name: (kind, dspy.InputField()) for name, kind in inputs.items()}
    return dspy.Signature(fields | {name: (kind, dspy.OutputField()) for name, kind in outputs.items()}, "Do it.")


TEXTS: st.SearchStrategy[str] = st.text(
    alphabet=st.sampled_from('abc:"\n \\[]{}é\r\x85\u2028') | st.characters(exclude_categories=["Cs"]), max_size=20
) | st.sampled_from(["out_0: x", "a\nout_1: b", "reasoning: no", '"a"', "null", "None", "12", "true", "```\na\n```"])
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_DATES = st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31))
_ITEMS = st.builds(Item, name=st.text(max_size=10), qty=st.integers(1, 99))

VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-(10**12), 10**12),
    float: _NUMBERS,
    bool: st.booleans(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Literal["yes", "no", "out_0: x", 3]: st.sampled_from(["yes", "no", "out_0: x", 3]),
    datetime.date: _DATES,
    Item: _ITEMS,
}
a_list, a_dict, a_set, a_tuple = (cast(Any, kind) for kind in (list, dict, set, tuple))  # of types that are known at run time only
VALUES |= {kind | None: values | st.none() for kind, values in VALUES.items() if kind is not Item}
VALUES |= {a_list[kind]: st.lists(VALUES[kind], max_size=3) for kind in (str, int, bool, Colour, Item, str | None)}
VALUES |= {a_dict[str, kind]: st.dictionaries(st.text(max_size=5), VALUES[kind], max_size=3) for kind in (str, int, Item)}
VALUES |= {
    int | str: st.integers() | TEXTS,
    int | float: st.integers(-1000, 1000) | _NUMBERS,
    a_set[int]: st.sets(st.integers(), max_size=3),
    a_tuple[int, str]: st.tuples(st.integers(), st.text(max_size=5)),
    Price: st.builds(Price, amount=st.floats(0.01, 1e6), code=st.from_regex("^[A-Z]{3}$", fullmatch=True)),
    Order: st.builds(Order, items=st.lists(_ITEMS, max_size=2), tags=st.lists(st.text(max_size=5), max_size=2), note=st.none() | st.text()),
    dspy.Reasoning: st.builds(lambda text: dspy.Reasoning(content=text), TEXTS),
    dspy.Code: st.builds(lambda text: dspy.Code(code=text), TEXTS),
}
LOSSY = (int | str, int | float, dspy.Reasoning, dspy.Code)
"""Types with values that an answer can say in one way only, which reads as another: those reject their row."""


@st.composite
def calls(draw: st.DrawFn) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A signature with one to three inputs and one to four outputs, with values for both."""
    inputs = {f"in_{at}": kind for at, kind in enumerate(draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3)))}
    outputs = {f"out_{at}": kind for at, kind in enumerate(draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4)))}
    if draw(st.booleans()):
        outputs = {"reasoning": str, **outputs}
    given, answered = ({name: draw(VALUES[kind]) for name, kind in fields.items()} for fields in (inputs, outputs))
    return signature_of(inputs, outputs), given, answered
