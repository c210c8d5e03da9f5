"""`ship_code=True` against a server that does not run what is sent: one line that says why, and the ways out."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import stillhouse
from distill.settings import get_settings
from stillhouse.dropin.shipping import CodeRefused
from tests.integration.api.conftest import Tokens, serving

ROWS = [dspy.Example(message="I was charged twice", team="billing").with_inputs("message")]


def made(lm: str) -> Any:
    """A program that no module has, as one of a notebook."""

    class Desk(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.route = dspy.Predict("message -> team")

        def forward(self, message: str) -> dspy.Prediction:
            return dspy.Prediction(team=self.route(message=message).team.lower())

    desk = Desk()
    desk.set_lm(dspy.LM(lm))
    return desk


def judging() -> Any:
    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        import moto

        return bool(moto) and bool(example.team == prediction.team)

    return metric


@pytest.mark.parametrize(
    ("section", "name", "value", "code", "said"),
    [
        ("bundles", "accept", False, "bundles_not_accepted", "This server takes no bundles"),
        ("bundles", "packages", ["numpy"], "package_not_allowed", "moto"),
        ("sandbox", "rung", "none", "sandbox_unavailable", '[sandbox] rung to "auto"'),
    ],
)
def test_why_and_what_helps(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch, section: str, name: str, value: Any, code: str, said: str
) -> None:
    monkeypatch.setattr(get_settings().bundles, "packages", ["numpy", "moto"])
    monkeypatch.setattr(getattr(get_settings(), section), name, value)
    with serving() as url, stillhouse.Stillhouse(url, tokens.all) as client:
        optimizer = stillhouse.BootstrapFinetune(metric=judging(), client=client, ship_code=True)
        with pytest.raises(CodeRefused) as refused:
            optimizer.compile(made("house/tiny"), ROWS, made("big/big-model"))
        text = str(refused.value)
        assert (refused.value.code, said in text, "\n" in text) == (code, True, False), text
        assert "Ways out: ship_code=False runs the code here, in this process" in text
        assert list(client.compile_jobs.list()) == []
