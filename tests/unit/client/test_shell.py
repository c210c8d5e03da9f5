"""What a Python shell shows of the client: names to complete, docstrings, and no key."""

import inspect

import pytest

import stillhouse
from stillhouse.resources.base import AsyncResource, Resource
from tests.unit.client.conftest import Shell, reply

CLIENT = stillhouse.Stillhouse("http://server", "sh_a_secret")
NOUNS = {name: noun for name, noun in vars(CLIENT).items() if isinstance(noun, Resource)}


def test_the_package_completes_to_what_it_gives() -> None:
    assert set(dir(stillhouse)) == set(stillhouse.__all__)
    assert "BootstrapFinetune" in dir(stillhouse)


def test_a_client_is_shown_by_its_address() -> None:
    assert repr(CLIENT) == "<Stillhouse http://server>"
    assert repr(stillhouse.AsyncStillhouse("http://server", "sh_a_secret")) == "<AsyncStillhouse http://server>"


@pytest.mark.parametrize("name", NOUNS)
def test_every_noun_and_each_of_its_methods_says_what_it_is(name: str) -> None:
    noun = NOUNS[name]
    methods = [getattr(noun, method) for method in dir(noun) if not method.startswith("_") and callable(getattr(noun, method))]
    assert methods
    assert all(inspect.getdoc(each) for each in (noun, *methods)), [each for each in methods if not inspect.getdoc(each)]


def test_an_async_noun_says_it_too() -> None:
    waiting = stillhouse.AsyncStillhouse("http://server", "sh_a_secret")
    nouns = [noun for noun in vars(waiting).values() if isinstance(noun, AsyncResource)]
    assert len(nouns) == len(NOUNS)
    assert all(map(inspect.getdoc, nouns))


def test_an_event_is_a_line_however_long(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    event = {"id": 1, "type": "log", "level": "info", "message": "word " * 40, "created_at": 1}
    shell.answers(reply({"data": [event], "has_more": False}))
    assert len(shell.run("jobs", "events", "cjob-1").stdout.splitlines()) == 1
