import json
import re
from typing import Any

import psutil
import pytest

from engines.lmhost.engine import Engine
from engines.lmhost.errors import HostError
from tests.unit.lmhost.asker import Ask, Asker, MakeEngine

LABELS = ["human", "location", "number", "entity"]
FORM = r"\[\[ ## answer ## \]\]\n(human|location|number|entity)\n\n\[\[ ## completed ## \]\]"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": LABELS}, "sure": {"type": "boolean"}},
    "required": ["label", "sure"],
    "additionalProperties": False,
}
LARK = 'start: "yes" | "no" " " /[0-9]{2}/'


class TestObeys:
    @pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
    def test_regex(self, engine: Engine, temperature: float) -> None:
        asks = [{"text": "?", "constraint": ("regex", FORM), "temperature": temperature, "seed": s, "max_tokens": 60} for s in range(8)]
        for piece in Asker(engine).together(*asks):
            assert re.fullmatch(FORM, piece.text)
            assert piece.finish == "stop"

    def test_choice(self, engine: Engine) -> None:
        options = ['a "quoted" one', "two\nlines", "three"]
        asks = [{"text": "?", "constraint": ("choice", options), "temperature": 2.0, "seed": s, "max_tokens": 40} for s in range(12)]
        answers = {piece.text for piece in Asker(engine).together(*asks)}
        assert answers <= set(options)
        assert len(answers) > 1

    def test_json_schema(self, engine: Engine) -> None:
        asks = [{"text": "?", "constraint": ("json", SCHEMA), "temperature": 1.0, "seed": s, "max_tokens": 80} for s in range(6)]
        for piece in Asker(engine).together(*asks):
            answer = json.loads(piece.text)
            assert answer["label"] in LABELS
            assert isinstance(answer["sure"], bool)

    def test_lark_grammar(self, engine: Engine) -> None:
        asks = [{"text": "?", "constraint": ("grammar", LARK), "temperature": 1.5, "seed": s} for s in range(8)]
        assert all(re.fullmatch("yes|no [0-9]{2}", piece.text) for piece in Asker(engine).together(*asks))

    def test_an_open_grammar_ends_where_the_model_ends_it(self, engine: Engine) -> None:
        piece = Asker(engine).ask("?", constraint=("regex", "[ab]*"), temperature=1.0, max_tokens=400)
        assert re.fullmatch("[ab]*", piece.text)

    def test_constrained_and_free_rows_share_a_batch(self, engine: Engine, make_engine: MakeEngine) -> None:
        free: Ask = {"text": "Tell me.", "max_tokens": 10}
        bound: Ask = {"text": "Tell me.", "constraint": ("choice", LABELS), "temperature": 1.0}
        mixed = Asker(engine).together(free, bound, free, bound)
        alone = Asker(make_engine(cache=False))
        assert [piece.text for piece in mixed] == [alone.ask(**ask).text for ask in (free, bound, free, bound)]

    def test_max_tokens_cuts_it(self, engine: Engine) -> None:
        piece = Asker(engine).ask("?", constraint=("regex", FORM), max_tokens=5)
        assert (piece.finish, piece.completion_tokens) == ("length", 5)
        assert piece.text.startswith("[[")


class TestJumpForward:
    @pytest.mark.parametrize("constraint", [("regex", FORM), ("json", SCHEMA), ("choice", LABELS)])
    def test_gives_the_same_answers(self, make_engine: MakeEngine, constraint: tuple[str, Any]) -> None:
        asks = [
            {"text": "?", "constraint": constraint, "temperature": t, "seed": s, "max_tokens": 80} for t in (0.0, 1.0) for s in range(4)
        ]
        jumping, stepping = (Asker(make_engine(jump=jump)) for jump in (True, False))
        assert [piece.text for piece in jumping.together(*asks)] == [piece.text for piece in stepping.together(*asks)]

    def test_forced_text_is_tokenised_as_the_tokenizer_does(self, engine: Engine) -> None:
        text = "[[ ## answer ## ]]\nhuman\n\n[[ ## completed ## ]]"
        piece = Asker(engine).ask("?", constraint=("choice", [text]), max_tokens=100)
        assert piece.text == text
        assert piece.completion_tokens == len(engine.tokenizer(text, add_special_tokens=False)["input_ids"])

    def test_a_form_needs_few_passes(self, engine: Engine) -> None:
        asker = Asker(engine)
        asker.ask("?", constraint=("regex", FORM), max_tokens=100)
        assert engine.stats.passes <= 4
        before = engine.stats.passes
        asker.ask("?", constraint=("regex", FORM), max_tokens=100)
        assert engine.stats.passes == before


class TestRefuses:
    @pytest.mark.parametrize(
        ("kind", "value"), [("regex", "(a"), ("json", {"type": "nonsense"}), ("grammar", 'start: "a" missing'), ("json", "{not json")]
    )
    def test_what_does_not_compile(self, engine: Engine, kind: str, value: Any) -> None:
        with pytest.raises(HostError, match=f"Not a valid {kind}") as caught:
            engine.guidance.compile(kind, value, "structured_outputs")
        assert (caught.value.status, caught.value.code) == (400, "invalid_grammar")

    def test_what_takes_too_much_to_compile(self, engine: Engine) -> None:
        """A compile is not endless, and what comes after it is compiled."""
        patterns = [{"type": "string", "pattern": f"[a-z]{{{n}}}.*{n}"} for n in range(60)]
        for _ in range(2):
            with pytest.raises(HostError, match="it takes more than 1 s of processor time") as caught:
                engine.guidance.compile("json", {"allOf": patterns}, "response_format")
            assert (caught.value.status, caught.value.param) == (400, "response_format")
        assert Asker(engine).ask("?", constraint=("choice", ["yes"])).text == "yes"

    def test_a_trial_that_is_killed_from_outside_says_nothing_of_the_grammar(self, engine: Engine) -> None:
        engine.guidance.compile("choice", ["starts the process"], "structured_outputs")
        trials = [each for each in psutil.Process().children() if "engines.lmhost.grammar_trial" in each.cmdline()]
        for each in trials:
            each.kill()
        assert trials
        engine.guidance.compile("choice", ["compiled all the same"], "structured_outputs")

    def test_ten_thousand_bounded_integers(self, engine: Engine) -> None:
        def part(first: int) -> dict[str, Any]:
            bounds = ((-(10**15) + n, 10**15 - n) for n in range(first, first + 50))
            numbers = {f"q{n}": {"type": "integer", "minimum": least, "maximum": most} for n, (least, most) in enumerate(bounds)}
            return {"type": "object", "properties": numbers}

        parts = {f"p{n}": part(50 * n) for n in range(200)}
        with pytest.raises(HostError, match="too big"):
            engine.guidance.compile("json", {"type": "object", "properties": parts}, "response_format")
