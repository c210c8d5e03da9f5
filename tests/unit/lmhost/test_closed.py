"""Answers that are one of a few texts: all of them are scored with the prompt, and drawn as token by token."""

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from llguidance import LLMatcher

from engines.base_models import BaseModel
from engines.lmhost.alternatives import alternatives
from engines.lmhost.engine import Engine
from engines.lmhost.rows import Piece
from tests.unit.lmhost.asker import Ask, Asker, MakeEngine, chat

LABELS = ["human", "human being", "human beings", "humid", "location", "locust", "number", "entity", "entirely else", "<|im_end|>"]
CHOICE = ("choice", LABELS)
FORM = r"\[\[ ## answer ## \]\]\n(?:human|human being|location|locust|entity)\n\n\[\[ ## completed ## \]\]\n?"
QUESTION = "What is the name of the city?"


def samples(count: int, **options: Any) -> list[Ask]:
    return [{"text": QUESTION, "temperature": 1.0, "seed": 5, "sample": sample, "max_tokens": 60, **options} for sample in range(count)]


def logprob_of(piece: Piece) -> float:
    return sum(chosen.logprob for chosen in piece.chosen)


@dataclass(frozen=True)
class Expected:
    """Of each text its log-probability token by token, and which of them greedy decoding gives."""

    logprobs: dict[str, float]
    greedy: str


TokenByToken = Callable[[str, list[str]], Expected]


@pytest.fixture
def token_by_token(base: BaseModel) -> TokenByToken:
    """By transformers: at each token the logits of those that may follow, in a tree of the tokenizer's own spellings."""
    model, tokenizer = base.load_model(torch.float32), base.load_tokenizer()

    def compute(question: str, texts: list[str]) -> Expected:
        prompt = tokenizer.apply_chat_template(chat(question), add_generation_prompt=True, return_dict=True)["input_ids"]
        spelled = {text: (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id) for text in texts}
        longest = max(map(len, spelled.values()))
        batch = [[*prompt, *tokens, *[0] * (longest - len(tokens))] for tokens in spelled.values()]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor(batch)).logits[:, len(prompt) - 1 :].double()
        states: dict[tuple[int, ...], torch.Tensor] = {}
        follow: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for row, tokens in enumerate(spelled.values()):
            for place, token in enumerate(tokens):
                states[tokens[:place]] = logits[row, place]
                follow[tokens[:place]].add(token)
        steps = {at: dict(zip(ids := sorted(follow[at]), states[at][ids].log_softmax(-1).tolist(), strict=True)) for at in states}
        found = {text: sum(steps[tokens[:place]][token] for place, token in enumerate(tokens)) for text, tokens in spelled.items()}
        greedy: tuple[int, ...] = ()
        while greedy in steps:
            greedy += (max(steps[greedy], key=steps[greedy].__getitem__),)
        return Expected(found, next(text for text, tokens in spelled.items() if tokens == greedy))

    return compute


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


class TestLogProbabilities:
    @pytest.mark.parametrize("constraint", [("choice", LABELS[:-1]), ("regex", FORM)])
    def test_of_an_answers_tokens_add_up_to_its_own(
        self, engine: Engine, token_by_token: TokenByToken, constraint: tuple[str, Any]
    ) -> None:
        texts = constraint[1] if constraint[0] == "choice" else alternatives(LLMatcher.grammar_from_regex(FORM)) or []
        pieces = Asker(engine).together(*samples(64, constraint=constraint, temperature=2.0, logprobs=0))
        expected = token_by_token(QUESTION, texts).logprobs
        assert sum(map(math.exp, expected.values())) == pytest.approx(1, abs=1e-6)
        assert len({piece.text for piece in pieces}) > 1
        assert [logprob_of(piece) for piece in pieces] == pytest.approx([expected[piece.text] for piece in pieces], abs=1e-4)

    def test_name_the_likeliest_alternatives(self, engine: Engine) -> None:
        (piece,) = Asker(engine).together(*samples(1, constraint=("choice", ["yes", "no", "never"]), logprobs=5, temperature=0.0))
        first = piece.chosen[0]
        assert first.top[0] == (first.token, first.logprob)
        assert sum(math.exp(logprob) for _, logprob in first.top) == pytest.approx(1, abs=1e-6)

    @pytest.mark.slow
    def test_of_a_thousand_prompts(self, make_engine: MakeEngine, token_by_token: TokenByToken) -> None:
        """One pass, token by token, and transformers: greedy and drawn answers are the same, and so are their log-probabilities."""
        chance = random.Random(13)
        words = ["city", "name", "book", "who", "wrote", "how", "many", "river", "of", "the", "in", "person"]
        kinds = [sorted({" ".join(chance.choices(words, k=chance.randint(1, 3))) for _ in range(chance.randint(2, 20))}) for _ in range(25)]
        one_pass, stepwise = make_engine(), make_engine(cache=False)
        for number in range(1000):
            texts, question = kinds[number % len(kinds)], " ".join(chance.choices(words, k=chance.randint(3, 30)))
            shared: Ask = {"text": question, "constraint": ("choice", texts), "max_tokens": 40, "logprobs": 0}
            asks = [{**shared, "temperature": 0.0}, *({**shared, "temperature": 1.0, "seed": number, "sample": s} for s in range(4))]
            before = one_pass.stats.passes
            pieces, others = (Asker(engine).together(*asks) for engine in (one_pass, stepwise))
            assert one_pass.stats.passes == before + 1
            assert [piece.text for piece in pieces] == [piece.text for piece in others]
            expected = token_by_token(question, texts)
            assert pieces[0].text == expected.greedy
            assert list(map(logprob_of, pieces)) == pytest.approx(list(map(logprob_of, others)), abs=1e-4)
            assert list(map(logprob_of, pieces)) == pytest.approx([expected.logprobs[piece.text] for piece in pieces], abs=1e-4)
