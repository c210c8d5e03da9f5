"""Who may ask the program host, and who waits."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from distill.rollouts.turns import Turns


def test_one_project_leaves_a_turn_to_the_others() -> None:
    turns = Turns(3)
    with turns.turn("a", 0), turns.turn("a", 0):
        with pytest.raises(TimeoutError), turns.turn("a", 0):
            pass
        with turns.turn("b", 0), pytest.raises(TimeoutError, match="busy"), turns.turn("c", 0):
            pass
    with turns.turn("a", 0), turns.turn("a", 0):
        pass


def test_a_turn_that_ends_goes_to_one_who_waits() -> None:
    turns, waits = Turns(1), threading.Event()

    def ask() -> str:
        waits.set()
        with turns.turn("b", 30):
            return "asked"

    with ThreadPoolExecutor(1) as others:
        with turns.turn("a", 0):
            asking = others.submit(ask)
            waits.wait(30)
        assert asking.result(30) == "asked"
