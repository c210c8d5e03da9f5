from pathlib import Path

import pytest

from engines.lmhost.engine import Engine
from tests.unit.lmhost.asker import Ask, Asker, MakeEngine, Reference, chat

SHARED = "You answer questions about cities, books and people. Take your time and look at each word. " * 4
QUESTIONS = [f"{SHARED}What is the name of the {thing}?" for thing in ("city", "book", "river", "person who wrote it")]


def load_both(engine: Engine, lab: Path) -> None:
    for name in ("first", "second"):
        engine.load(name, lab / name)


class TestGreedy:
    def test_equals_generate(self, engine: Engine, reference: Reference) -> None:
        asker = Asker(engine)
        for question in (*QUESTIONS, "Short?"):
            assert asker.ask(question, max_tokens=16).text == reference(chat(question), None, 16)

    def test_mixed_lora_adapters_in_one_batch_answer_as_alone(self, engine: Engine, lab: Path, reference: Reference) -> None:
        load_both(engine, lab)
        asks: list[Ask] = [
            {"text": question, "lora": lora, "max_tokens": 16} for question in QUESTIONS for lora in (None, "first", "second")
        ]
        answers = [piece.text for piece in Asker(engine).together(*asks)]
        assert answers == [reference(chat(ask["text"]), ask["lora"], 16) for ask in asks]
        assert len(set(answers[:3])) == 3

    def test_batch_of_one_equals_batch_of_sixteen(self, engine: Engine, make_engine: MakeEngine) -> None:
        asks: list[Ask] = [{"text": f"{SHARED} Number {number}?", "max_tokens": 10} for number in range(16)]
        together = [piece.text for piece in Asker(engine).together(*asks)]
        alone = Asker(make_engine(cache=False))
        assert together == [alone.ask(**ask).text for ask in asks]

    def test_a_prompt_longer_than_one_pass(self, make_engine: MakeEngine, reference: Reference) -> None:
        question = "many words about one city and its books " * 30
        for cache in (True, False):
            engine = make_engine(cache=cache, pass_tokens=128)
            assert Asker(engine).ask(question).text == reference(chat(question), None, 12)

    def test_a_long_answer_outgrows_its_slot(self, engine: Engine, reference: Reference) -> None:
        long, short = Asker(engine).together({"text": "Go on.", "max_tokens": 300}, {"text": "Stop.", "max_tokens": 3})
        assert long.text == reference(chat("Go on."), None, 300)
        assert short.text == reference(chat("Stop."), None, 3)

    @pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
    def test_other_dtypes_answer(self, make_engine: MakeEngine, dtype: str) -> None:
        assert Asker(make_engine(dtype=dtype)).ask("Hello?", max_tokens=5).completion_tokens == 5


class TestPrefixCache:
    def test_on_and_off_answer_alike(self, make_engine: MakeEngine, lab: Path) -> None:
        answers = []
        for cache in (True, False):
            engine = make_engine(cache=cache)
            load_both(engine, lab)
            asks: list[Ask] = [{"text": q, "lora": lora} for q in QUESTIONS for lora in ("first", None)] * 2
            asker = Asker(engine)
            answers.append([asker.ask(**ask).text for ask in asks] + [piece.text for piece in asker.together(*asks)])
        assert answers[0] == answers[1]

    def test_a_shared_beginning_counts_as_cached(self, engine: Engine) -> None:
        asker = Asker(engine)
        assert asker.ask(QUESTIONS[0]).cached_tokens == 0
        shared = asker.ask(QUESTIONS[1]).cached_tokens
        assert shared > 100
        assert asker.ask(QUESTIONS[1]).cached_tokens > shared

    def test_rows_that_arrive_together_compute_their_beginning_once(self, engine: Engine) -> None:
        pieces = Asker(engine).together(*({"text": question} for question in QUESTIONS))
        assert all(piece.cached_tokens > 100 for piece in pieces)

    def test_equal_requests_share_one_prefill(self, engine: Engine) -> None:
        asks: list[Ask] = [{"text": QUESTIONS[0], "temperature": 1.0, "seed": seed} for seed in range(4)]
        pieces = Asker(engine).together(*asks)
        assert len({piece.text for piece in pieces}) > 1
        assert all(piece.cached_tokens > 0 for piece in pieces[1:])

    def test_lora_adapters_do_not_share_it(self, engine: Engine, lab: Path) -> None:
        load_both(engine, lab)
        asker = Asker(engine)
        asker.ask(QUESTIONS[0], lora="first")
        assert asker.ask(QUESTIONS[0], lora="second").cached_tokens == 0

    def test_a_tiny_cache_changes_no_answer(self, make_engine: MakeEngine, engine: Engine) -> None:
        tiny = Asker(make_engine(cache_bytes=200_000, memo_entries=2))
        roomy = Asker(engine)
        for question in QUESTIONS * 2:
            assert tiny.ask(question).text == roomy.ask(question).text


class TestEnds:
    def test_max_tokens(self, engine: Engine) -> None:
        piece = Asker(engine).ask("Hello?", max_tokens=3)
        assert (piece.finish, piece.completion_tokens) == ("length", 3)

    def test_a_stop_string_cuts_the_answer(self, engine: Engine) -> None:
        asker = Asker(engine)
        whole = asker.ask("Hello?", max_tokens=20).text
        stop = whole[5:8]
        piece = asker.ask("Hello?", max_tokens=20, stop=(stop,))
        assert piece.finish == "stop"
        assert piece.text == whole[: whole.index(stop)]

    def test_a_cancelled_row_leaves_and_others_go_on(self, engine: Engine) -> None:
        asker = Asker(engine)
        rows = engine.submit([asker.request("Long?", lambda piece: None, max_tokens=1500)]).result()
        engine.cancel(rows)
        assert asker.ask("Short?", max_tokens=4).finish == "length"
        assert engine.stats.completion_tokens == 4


class TestSeeds:
    def test_same_seed_same_answer_whatever_the_batch(self, make_engine: MakeEngine) -> None:
        ask: Ask = {"text": QUESTIONS[0], "temperature": 1.0, "seed": 7, "top_p": 0.9}
        alone = Asker(make_engine()).ask(**ask).text
        mates: list[Ask] = [{"text": question, "temperature": 1.0, "seed": seed} for seed, question in enumerate(QUESTIONS)]
        assert Asker(make_engine()).together(*mates, ask, *mates)[len(mates)].text == alone
        assert Asker(make_engine(cache=False)).ask(**ask).text == alone

    def test_other_seed_other_answer(self, engine: Engine) -> None:
        asker = Asker(engine)
        assert len({asker.ask("Hello?", temperature=1.0, seed=seed).text for seed in range(5)}) > 1

    def test_samples_of_one_request_differ(self, engine: Engine) -> None:
        asks: list[Ask] = [{"text": "Hello?", "temperature": 1.0, "seed": 1, "sample": sample} for sample in range(4)]
        assert len({piece.text for piece in Asker(engine).together(*asks)}) > 1
