"""Which connection stands for the name of an LM."""

from __future__ import annotations

import pytest

from distill.catalog.lm_names import choose
from distill.catalog.models import Connection
from distill.errors import Invalid, NotFound


def connection(name: str, models: list[str] | None, *match: str) -> Connection:
    return Connection(row_name=name, models=models, match=list(match))


HOUSE = connection("house", ["tiny", "small"])
OPENAI = connection("openai", ["gpt-4.1", "gpt-4.1-mini"])


def found(rows: list[Connection], name: str) -> tuple[str, str, str | None]:
    match = choose(rows, name)
    return match.connection.name, match.model, match.rule


class TestRules:
    def test_the_most_exact_wins_in_whatever_order(self) -> None:
        any_, some = connection("any", None, "*"), connection("some", None, "openai/gpt-4.1*")
        longer, exact = connection("longer", None, "openai/*-4.1-mini"), connection("exact", None, "openai/gpt-4.1-mini")
        name, rows = "openai/gpt-4.1-mini", [any_, exact, longer, some, OPENAI]
        expected = ["exact", "longer", "some", "any", "openai"]
        for wanted in expected:
            assert found(rows, name)[0] == found(rows[::-1], name)[0] == wanted
            rows = [row for row in rows if row.name != wanted]

    def test_a_name_is_more_exact_than_a_longer_pattern_of_it(self) -> None:
        assert found([connection("one", None, "a/b"), connection("two", None, "a/b*")], "a/b") == ("one", "b", "a/b")

    def test_two_that_fit_as_well_are_refused_by_name(self) -> None:
        rows = [connection("one", None, "openai/gpt*"), connection("two", None, "openai/*mini"), connection("three", None, "openai/*")]
        assert found(rows, "openai/gpt-4.1")[0] == "one"
        rows[1] = connection("two", None, "openai*mini")
        with pytest.raises(
            Invalid, match=r"one \(`openai/gpt\*`\) and two \(`openai\*mini`\) stand for the LM `openai/gpt-mini`"
        ) as caught:
            choose(rows, "openai/gpt-mini")
        assert caught.value.code == "ambiguous_lm"

    def test_two_rules_of_one_connection_are_no_contradiction(self) -> None:
        assert found([connection("one", None, "a/*c", "a/b*")], "a/bc")[0] == "one"

    def test_case_counts_and_only_the_star_is_special(self) -> None:
        with pytest.raises(NotFound):
            choose([connection("one", None, "OpenAI/*")], "openai/gpt")

    @pytest.mark.parametrize(
        ("models", "name", "model"),
        [
            (None, "openai/gpt-5", "gpt-5"),
            (None, "openai/org/gpt-5", "org/gpt-5"),
            (None, "gpt-5", "gpt-5"),
            (["big", "gpt-5"], "openai/gpt-5", "gpt-5"),
            (["big", "openai/gpt-5"], "openai/gpt-5", "openai/gpt-5"),
            (["big"], "openai/gpt-5", "big"),
        ],
    )
    def test_the_model_is_that_of_the_name_or_the_only_one(self, models: list[str] | None, name: str, model: str) -> None:
        assert found([connection("any", models, "*")], name)[1] == model

    def test_a_rule_that_leaves_the_model_open_is_refused(self) -> None:
        with pytest.raises(Invalid, match=r"has none of its models under that name \(there are: big, other\)") as caught:
            choose([connection("any", ["big", "other"], "*")], "openai/gpt-5")
        assert caught.value.code == "unknown_model"


class TestNames:
    @pytest.mark.parametrize(
        ("name", "place"),
        [
            ("house/tiny", ("house", "tiny")),
            ("house/house/tiny", ("house", "tiny")),
            ("house/openai/gpt-4.1", ("openai", "gpt-4.1")),
            ("house/gpt-4.1", ("openai", "gpt-4.1")),
            ("openai/gpt-4.1-mini", ("openai", "gpt-4.1-mini")),
            ("tiny", ("house", "tiny")),
            ("elsewhere/tiny", ("house", "tiny")),
        ],
    )
    def test_a_name_may_say_its_connection(self, name: str, place: tuple[str, str]) -> None:
        assert found([HOUSE, OPENAI], name) == (*place, None)

    def test_of_equal_rules_that_of_the_projects_own_connection(self) -> None:
        own = Connection(row_name="conn-1", own_name="ours", project_id="proj-1", models=None, match=["openai/*"])
        theirs = connection("theirs", None, "openai/*")
        for rows in ([own, theirs], [theirs, own]):
            assert found(rows, "openai/gpt-9") == ("ours", "gpt-9", "openai/*")
        assert found([own, connection("exact", None, "openai/gpt-9")], "openai/gpt-9") == ("exact", "gpt-9", "openai/gpt-9")

    def test_no_rule_is_asked_of_the_servers_own_names(self) -> None:
        assert found([HOUSE, connection("any", None, "*")], "house/tiny") == ("house", "tiny", None)

    @pytest.mark.parametrize("name", ["mistral/large", "openai/gpt-9", "house/", "/", "openai/", "house/house/none"])
    def test_a_name_that_nobody_stands_for_is_told_with_what_there_is(self, name: str) -> None:
        with pytest.raises(NotFound, match=r"there are house/tiny, house/small, openai/gpt-4\.1, openai/gpt-4\.1-mini") as caught:
            choose([HOUSE, OPENAI], name)
        assert caught.value.code == "connection_not_found"
