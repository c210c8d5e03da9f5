"""Held-out examples under two roles, as readers page through them."""

from __future__ import annotations

import pytest

from distill.catalog import row_facts
from distill.catalog.row_facts import NewFact
from distill.db import Page, unit_of_work
from distill.errors import Invalid
from distill.jobs import pairs, repository
from distill.jobs.pairs import Change
from tests.integration.core.world import World

OK, WRONG = ("ok", "ok", 1.0), ("ok", "ok", 0.0)
UNPARSABLE, BROKEN = ("unparsable", None, None), ("ok", "failed", None)
INCONCLUSIVE, UNDECIDED = ("ok", "inconclusive", None), ("undecided", None, None)
Answer = tuple[str, str | None, float | None]
CASES: list[tuple[Answer, Answer, Change]] = [
    (OK, WRONG, "fix"),
    (WRONG, OK, "regression"),
    (OK, OK, "same"),
    (OK, UNPARSABLE, "fix"),
    (BROKEN, OK, "regression"),
    (UNPARSABLE, WRONG, "same"),
    (INCONCLUSIVE, OK, "undecided"),
    (OK, UNDECIDED, "undecided"),
]


@pytest.fixture
def job_id(world: World) -> str:
    """A job whose held-out examples are the cases, in their order."""
    job_id = world.submit()
    facts = []
    for number, (ours, theirs, _) in enumerate(CASES):
        for role, (status, judged, score) in (("compiled", ours), ("baseline", theirs)):
            facts.append(NewFact(job_id, "rollout", role, number, 0, status, score=score, data={"score": judged, "seconds": 0.5}))
    with unit_of_work() as s:
        row_facts.store(s, facts)
    return job_id


def listed(job_id: str, page: Page, change: Change | None = None, against: str = "baseline") -> tuple[list[int], bool]:
    with unit_of_work() as s:
        found = pairs.list_pairs(s, repository.by_id(s, job_id), against, page, change)
    return [pair.example for pair in found.data], found.has_more


class TestPairs:
    def test_say_what_changed(self, job_id: str) -> None:
        with unit_of_work() as s:
            found = pairs.list_pairs(s, repository.by_id(s, job_id), "baseline", Page(order="asc")).data
        assert [pair.change for pair in found] == [change for *_, change in CASES]

    @pytest.mark.parametrize("change", ["fix", "regression", "same", "undecided"])
    def test_the_database_says_the_same(self, job_id: str, change: Change) -> None:
        wanted = [number for number, (*_, what) in enumerate(CASES) if what == change]
        assert listed(job_id, Page(order="asc"), change) == (wanted, False)

    def test_pages_go_both_ways(self, job_id: str) -> None:
        assert listed(job_id, Page(limit=3, order="asc")) == ([0, 1, 2], True)
        assert listed(job_id, Page(limit=3, after="3", order="asc")) == ([3, 4, 5], True)
        assert listed(job_id, Page(limit=3, after="3", order="desc")) == ([1, 0], False)

    def test_a_role_that_did_not_run_has_no_pairs(self, job_id: str) -> None:
        assert listed(job_id, Page(), against="teacher") == ([], False)

    @pytest.mark.parametrize("after", ["x", "-1", "9" * 20])
    def test_a_cursor_of_another_list_is_refused(self, job_id: str, after: str) -> None:
        with pytest.raises(Invalid):
            listed(job_id, Page(after=after))
