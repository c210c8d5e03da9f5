from tests.unit.lmhost.asker import Ask, Asker, MakeEngine

QUESTION = "What is the name of the city?"


class TestDrafts:
    def test_repeated_answers_need_fewer_passes(self, make_engine: MakeEngine) -> None:
        # Without the memory of hidden states every answer is computed; the third one is guessed.
        engine = make_engine(memo_entries=0)
        asker, passes = Asker(engine), []
        for _ in range(3):
            before = engine.stats.passes
            text = asker.ask(QUESTION, max_tokens=30).text
            passes.append(engine.stats.passes - before)
        assert passes[2] < passes[0] // 3
        assert engine.stats.guessed > 15
        assert text == Asker(make_engine(drafts=False, cache=False)).ask(QUESTION, max_tokens=30).text

    def test_wrong_guesses_change_no_answer(self, make_engine: MakeEngine) -> None:
        asks: list[Ask] = [
            {
                "text": f"{QUESTION} {number % 3}",
                "temperature": 0.7,
                "seed": number % 4,
                "max_tokens": 24,
                "stop": ("e",) if number % 5 == 4 else (),
            }
            for number in range(24)
        ]
        guessing, plain = make_engine(memo_entries=0, max_rows=4), make_engine(drafts=False, cache=False)
        assert [p.text for p in Asker(guessing).together(*asks)] == [p.text for p in Asker(plain).together(*asks)]
        assert guessing.stats.guessed > 0
        assert guessing.stats.completion_tokens == plain.stats.completion_tokens

    def test_max_tokens_holds(self, make_engine: MakeEngine) -> None:
        asker = Asker(make_engine(memo_entries=0))
        for limit in (20, 20, 20, 3, 1, 9):
            assert asker.ask(QUESTION, max_tokens=limit).completion_tokens == limit
