"""Which of a program's methods decides about its inputs: the one that a rollout runs."""

from __future__ import annotations

from typing import Any

import dspy

from stillhouse_programs.signatures import inputs_fault


class Both(dspy.Module):
    def forward(self, text: str) -> dspy.Prediction:
        raise NotImplementedError

    async def aforward(self, message: str) -> dspy.Prediction:
        raise NotImplementedError


def test_aforward_decides_where_a_program_has_both() -> None:
    assert inputs_fault(Both(), ["message"]) is None
    assert inputs_fault(Both(), ["text"]) == "aforward of Both needs `message`, which is not among the inputs `text`"


def test_a_forward_of_the_instance_is_not_judged() -> None:
    class Plain(dspy.Module):
        def forward(self, text: str) -> dspy.Prediction:
            raise NotImplementedError

    program: Any = Plain()
    program.forward = lambda message: dspy.Prediction(answer=message)
    assert inputs_fault(program, ["message"]) is None
