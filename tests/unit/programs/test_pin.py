"""A pinned program asks as it was evaluated: the app's own prompt adapter changes nothing, the program's own changes do."""

import asyncio
import copy
import json
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Response, TextPart, Usage

from stillhouse_programs import prompts
from stillhouse_programs.pinning import pin, pinned_prompt_adapter, unpin
from tests.unit.programs.samples import Support

HINT = "say good"


class Engine:
    """An LM that answers in chat form and keeps every request's last message. With the hint it answers `good`."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def complete(self, request: Any) -> Any:
        text = request.messages[-1].text
        self.seen.append(text)
        asked = text.rsplit("Respond with", 1)[-1]
        names = [name for name in re.findall(r"\[\[ ## (\w+) ## \]\]", asked) if name != "completed"]
        values = {
            "advice": json.dumps({"module": HINT, "self": HINT}),
            "confidence": "0.9",
            "category": "billing",
            "a": "good" if HINT in text else "bad",
        }
        answer = "\n\n".join(f"[[ ## {name} ## ]]\n{values.get(name, 'text')}" for name in names) + "\n\n[[ ## completed ## ]]"
        return Response(
            id="1",
            model="test/none",
            message=Message(role="assistant", parts=(TextPart(text=answer),)),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Engine":
        return self


class AsyncEngine(Engine):
    async def complete(self, request: Any) -> Any:
        return Engine.complete(self, request)


def asked_by(program: dspy.Module, **inputs: Any) -> list[str]:
    """What a program sends in an app that configured JSONAdapter and no LM of its own."""
    engine = Engine()
    program.set_lm(dspy.LM("test/none", engine=engine, cache=False, num_retries=0))
    with dspy.context(adapter=dspy.JSONAdapter(), lm=None):
        program(**inputs)
    return engine.seen


def chat(program: dspy.Module) -> dspy.Module:
    return pin(program, prompts.make_prompt_adapter("chat"))


def is_chat(texts: list[str]) -> bool:
    return bool(texts) and all("[[ ## completed ## ]]" in text for text in texts)


def is_good(args: Any, pred: Any) -> float:
    return float(pred.a == "good")


class Careful(dspy.Module):
    """Refine, deep inside of a program."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = {"checked": dspy.Refine(dspy.Predict("q -> a"), N=3, reward_fn=is_good, threshold=1.0)}
        self.last = dspy.Predict("a -> b")

    def forward(self, q: str) -> dspy.Prediction:
        best = self.parts["checked"](q=q)
        return dspy.Prediction(a=best.a, b=self.last(a=best.a).b)


class TestRefine:
    @pytest.mark.parametrize(
        "make", [chat, lambda p: chat(p).deepcopy(), lambda p: copy.deepcopy(chat(p))], ids=["pinned", "copy", "deepcopy"]
    )
    def test_hints_reach_the_prompt(self, make: Callable[[dspy.Module], dspy.Module]) -> None:
        program = make(Careful())
        engine = Engine()
        program.set_lm(dspy.LM("test/none", engine=engine, cache=False, num_retries=0))
        with dspy.context(adapter=dspy.JSONAdapter(), lm=None):
            assert program(q="x").a == "good"
        assert is_chat(engine.seen)
        assert [f"[[ ## hint_ ## ]]\n{HINT}" in text for text in engine.seen] == [False, False, True, False]

    def test_hints_reach_the_prompt_of_a_part_that_is_called_by_itself(self) -> None:
        seen = asked_by(chat(Careful()).parts["checked"], q="x")
        assert is_chat(seen)
        assert HINT in seen[-1]

    def test_its_helper_asks_the_lm_that_the_app_configured(self) -> None:
        program, own, apps = chat(Careful()), Engine(), Engine()
        program.set_lm(dspy.LM("test/none", engine=own, cache=False, num_retries=0))
        with dspy.context(lm=dspy.LM("test/app", engine=apps, cache=False, num_retries=0)):
            program(q="x")
        assert (len(own.seen), len(apps.seen)) == (3, 1)


class TestAgainstTheAppsSetting:
    def test_holds_for_the_program_and_each_part_of_it(self) -> None:
        program = chat(Support())
        assert is_chat(asked_by(program, message="hi"))
        assert is_chat(asked_by(program.classify, message="hi"))
        assert is_chat(asked_by(program.reply, message="hi", category="billing"))
        assert "Respond with a JSON object" in asked_by_unpinned()[0]

    def test_holds_when_the_app_calls_forward_itself(self) -> None:
        program, engine = chat(Careful()), Engine()
        program.set_lm(dspy.LM("test/none", engine=engine, cache=False, num_retries=0))
        with dspy.context(adapter=dspy.JSONAdapter(), lm=None):
            program.forward(q="x")
        assert is_chat(engine.seen)
        assert HINT in engine.seen[2]

    def test_holds_for_async_calls(self) -> None:
        class Async(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one = dspy.ChainOfThought("q -> a")

            async def aforward(self, q: str) -> dspy.Prediction:
                return await self.one.acall(q=q)

        program, engine = chat(Async()), AsyncEngine()
        program.set_lm(dspy.LM("test/none", async_engine=engine, engine=Engine(), cache=False, num_retries=0))
        assert not hasattr(program, "forward")

        async def both() -> None:
            with dspy.context(adapter=dspy.JSONAdapter()):
                await asyncio.gather(program.acall(q="1"), program.one.acall(q="2"))

        asyncio.run(both())
        assert len(engine.seen) == 2
        assert is_chat(engine.seen)

    def test_holds_in_threads_of_the_program_and_of_the_app(self) -> None:
        class Threads(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one = dspy.Predict("q -> a")

            def forward(self, q: str) -> dspy.Prediction:
                thread = threading.Thread(target=self.one, kwargs={"q": "bare"})
                thread.start()
                thread.join()
                return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.one, {"q": q}), (self.one, {"q": q})])[0]

        program, engine = chat(Threads()), Engine()
        program.set_lm(dspy.LM("test/none", engine=engine, cache=False, num_retries=0))
        with dspy.context(adapter=dspy.JSONAdapter()):
            thread = threading.Thread(target=program, kwargs={"q": "x"})
            thread.start()
            thread.join()
        assert len(engine.seen) == 3
        assert is_chat(engine.seen)

    def test_holds_for_predictors_that_are_made_while_it_runs(self) -> None:
        """They ran under the job's prompt adapter when the program was evaluated."""

        class Helped(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one = dspy.Predict("q -> a")

            def forward(self, q: str) -> dspy.Prediction:
                return self.one(q=dspy.Predict("q -> b")(q=q).b)

        seen = asked_by(chat(Helped()), q="x")
        assert len(seen) == 2
        assert is_chat(seen)

    def test_a_pinned_program_inside_of_another_keeps_its_own(self) -> None:
        inner = pin(dspy.Predict("q -> a"), prompts.make_prompt_adapter("chat"))
        engine = Engine()
        inner.lm = dspy.LM("test/none", engine=engine, cache=False, num_retries=0)

        class Outer(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.own = dspy.Predict("q -> a")
                self.ask = inner.__call__

            def forward(self, q: str) -> dspy.Prediction:
                return dspy.Prediction(a=self.ask(q=q).a)

        pin(Outer(), prompts.make_prompt_adapter("json"))(q="x")
        assert is_chat(engine.seen)


def asked_by_unpinned() -> list[str]:
    engine, program = Engine(), Support()
    program.set_lm(dspy.LM("test/none", engine=engine, cache=False, num_retries=0))
    with dspy.context(adapter=dspy.JSONAdapter()), pytest.raises(Exception, match="JSON"):
        program(message="hi")
    return engine.seen


class TestTheProgramStaysWhatItIs:
    def test_copies_are_pinned_too(self) -> None:
        for copied in (chat(Support()).deepcopy(), copy.deepcopy(chat(Support())), chat(Support()).reset_copy()):
            assert is_chat(asked_by(copied, message="hi"))

    def test_names_state_and_text_stay(self) -> None:
        program = chat(Support())
        assert [name for name, _ in program.named_predictors()] == ["classify.predict", "reply"]
        assert program.dump_state() == Support().dump_state()
        assert repr(program.reply) == repr(Support().reply)
        assert isinstance(program, Support)
        assert (type(program).__name__, type(program).__qualname__, type(program).__module__) == ("Support", "Support", Support.__module__)

    def test_state_is_saved_and_loaded(self, tmp_path: Path) -> None:
        chat(Support()).save(tmp_path / "state.json")
        program = chat(Support())
        program.load(tmp_path / "state.json")
        assert is_chat(asked_by(program, message="hi"))

    def test_a_whole_program_is_saved_and_loaded_in_another_process(self, tmp_path: Path) -> None:
        chat(Support()).save(tmp_path / "whole", save_program=True)
        script = f"""
            import dspy
            from tests.unit.programs.test_pin import asked_by, is_chat
            program = dspy.load({str(tmp_path / "whole")!r}, allow_pickle=True)
            assert is_chat(asked_by(program, message="hi"))
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parents[3])

    def test_a_second_pin_replaces_the_first(self) -> None:
        program = pin(chat(Support()), prompts.make_prompt_adapter("xml"))
        engine = Engine()
        program.set_lm(dspy.LM("test/none", engine=engine, cache=False, num_retries=0))
        with pytest.raises(Exception, match="XML"):
            program(message="hi")
        assert "<reasoning>" in engine.seen[0]

    def test_unpin(self) -> None:
        program = unpin(chat(Support()))
        assert [type(part) for _, part in program.named_sub_modules()] == [type(part) for _, part in Support().named_sub_modules()]
        assert pinned_prompt_adapter(program) is None
        assert vars(program.reply).keys() == vars(Support().reply).keys()
