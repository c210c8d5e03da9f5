"""Answers that are one of a few texts: all of them are scored with the prompt, and drawn as token by token."""

from pathlib import Path
from typing import Any

import pytest

from engines.lmhost.engine import Engine
from tests.unit.lmhost.asker import Ask, Asker, MakeEngine

LABELS = ["human", "human being", "human beings", "humid", "location", "locust", "number", "entity", "entirely else", "<|im_end|>"]
CHOICE = ("choice", LABELS)
FORM = r"\[\[ ## answer ## \]\]\n(?:human|human being|location|locust|entity)\n\n\[\[ ## completed ## \]\]\n?"
QUESTION = "What is the name of the city?"


def samples(count: int, **options: Any) -> list[Ask]:
    return [{"text": QUESTION, "temperature": 1.0, "seed": 5, "sample": sample, "max_tokens": 60, **options} for sample in range(count)]


class TestOnePass:
    @pytest.mark.parametrize("constraint", [CHOICE, ("regex", FORM)])
    def test_answers_all_samples(self, engine: Engine, constraint: tuple[str, Any]) -> None:
        asker = Asker(engine)
        answers = {piece.text for piece in asker.together(*samples(8, constraint=constraint, temperature=2.0))}
        assert len(answers) > 1
        assert engine.stats.passes == 1
        taken = engine.stats.pass_tokens
        asker.together(*samples(8, constraint=constraint, seed=6, temperature=2.0), *samples(1, constraint=constraint, temperature=0.0))
        assert (engine.stats.passes, engine.stats.pass_tokens) == (1, taken)

    def test_takes_as_many_tokens_for_eight_as_for_one(self, make_engine: MakeEngine) -> None:
        one, eight = make_engine(), make_engine()
        Asker(one).together(*samples(1, constraint=CHOICE))
        Asker(eight).together(*samples(8, constraint=CHOICE))
        assert one.stats.pass_tokens == eight.stats.pass_tokens

    def test_more_forks_than_one_pass_takes(self, engine: Engine, make_engine: MakeEngine) -> None:
        numbers = ("choice", [f"{number} at {number}" for number in range(256)])
        asks = samples(16, constraint=numbers)
        answers = [piece.text for piece in Asker(engine).together(*asks)]
        assert engine.stats.passes <= 5
        assert answers == [piece.text for piece in Asker(make_engine(cache=False)).together(*asks)]


class TestAsTokenByToken:
    """An engine without caches computes a pass for each token that the grammar leaves open."""

    @pytest.mark.parametrize(
        "options",
        [{"temperature": 0.0}, {}, {"temperature": 1.7, "top_p": 0.8}, {"stop": ("an b", "us")}, {"max_tokens": 3}, {"lora": "first"}],
    )
    def test_answers(self, make_engine: MakeEngine, lab: Path, options: Ask) -> None:
        found = []
        for cache in (True, False):
            engine = make_engine(cache=cache)
            engine.load("first", lab / "first")
            asks = [ask for constraint in (CHOICE, ("regex", FORM)) for ask in samples(12, constraint=constraint, **options)]
            found.append([(piece.text, piece.finish, piece.completion_tokens) for piece in Asker(engine).together(*asks)])
        assert found[0] == found[1]

    def test_rows_of_several_prompts_and_kinds_in_one_batch(self, engine: Engine, make_engine: MakeEngine) -> None:
        asks: list[Ask] = [
            {"text": f"{QUESTION} {number}", "temperature": 1.0, "seed": number, "constraint": constraint, "max_tokens": 20}
            for number in range(6)
            for constraint in (CHOICE, None, ("regex", "[a-d]{1,9}"), ("choice", ["yes", "no"]))
        ]
        alone = Asker(make_engine(cache=False))
        assert [piece.text for piece in Asker(engine).together(*asks)] == [alone.ask(**ask).text for ask in asks]

    def test_with_memory_for_less_than_its_forks(self, make_engine: MakeEngine) -> None:
        small, none = Asker(make_engine(memo_entries=2)), Asker(make_engine(cache=False))
        asks = samples(12, constraint=CHOICE)
        assert [piece.text for piece in small.together(*asks)] == [piece.text for piece in none.together(*asks)]


class TestSpelling:
    def test_is_the_tokenizers(self, engine: Engine) -> None:
        pieces = Asker(engine).together(*samples(64, constraint=("choice", LABELS[:-1]), temperature=2.0))
        assert len({piece.text for piece in pieces}) > 3
        for piece in pieces:
            written = len(engine.tokenizer(piece.text, add_special_tokens=False)["input_ids"])
            assert piece.completion_tokens - written in (0, 1)  # one that others go on from has an end

    def test_of_a_label_that_reads_as_the_end(self, engine: Engine) -> None:
        assert Asker(engine).ask(QUESTION, constraint=("choice", ["a <|im_end|> b"]), max_tokens=40).text == "a <|im_end|> b"

    def test_an_open_line_end_is_left_out(self, engine: Engine) -> None:
        pieces = Asker(engine).together(*samples(16, constraint=("regex", FORM), temperature=2.0))
        assert {piece.text[-1] for piece in pieces} == {"]"}
