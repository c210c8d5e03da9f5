"""The chart in docs/lifecycle.md is the code's."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from distill.jobs.status import FINE_TUNE_EDGES, ITEM_EDGES, JOB_EDGES, QUEUE_OF, TRANSITIONS, FineTuneStatus, ItemStatus, JobStatus, Step

PAGE = (Path(__file__).parents[3] / "docs" / "lifecycle.md").read_text(encoding="utf-8")
CHARTS = re.findall(r"```mermaid\n(.*?)```", PAGE, flags=re.DOTALL)


TABLES: list[dict[str, Any]] = [JOB_EDGES, ITEM_EDGES, FINE_TUNE_EDGES]
WORDS: list[type[StrEnum]] = [JobStatus, ItemStatus, FineTuneStatus]
NEW = "[*]"


def drawn(chart: str) -> set[tuple[str, str, str]]:
    """(letter, from, to) of every edge; a mark for the end of a chart is no edge."""
    found = re.findall(r"^\s*(\S+) --> (\S+?)(?:: (\S+))?$", chart, flags=re.MULTILINE)
    return {(letter, source, target) for source, target, letter in found if target != NEW}


def in_code(table: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(letter, str(source or NEW), str(target)) for letter, (sources, target) in table.items() for source in sources}


class TestCharts:
    def test_each_has_its_table(self) -> None:
        assert [drawn(chart) for chart in CHARTS] == [in_code(table) for table in TABLES]

    def test_the_page_explains_every_letter_once(self) -> None:
        letters = re.findall(r"^\| (\S) \|", PAGE, flags=re.MULTILINE)
        assert letters == [letter for table in TABLES for letter in table]

    @pytest.mark.parametrize(("table", "words"), list(zip(TABLES, WORDS, strict=True)))
    def test_every_status_is_reached(self, table: dict[str, Any], words: type[StrEnum]) -> None:
        assert {target for _, target in table.values()} == set(words)


class TestJobStatus:
    def test_terminal_statuses_have_no_work(self) -> None:
        assert [str(status) for status in JobStatus if status.is_terminal] == ["succeeded", "failed", "cancelled"]
        assert not any(status.is_terminal and status.is_claimable for status in JobStatus)

    def test_only_a_retry_leaves_a_terminal_status(self) -> None:
        assert {status: set(TRANSITIONS[status]) for status in JobStatus if status.is_terminal} == {
            JobStatus.SUCCEEDED: set(),
            JobStatus.FAILED: {JobStatus.QUEUED},
            JobStatus.CANCELLED: set(),
        }


class TestStep:
    def test_every_step_has_a_queue(self) -> None:
        assert set(QUEUE_OF) == set(Step)

    def test_readers_see_six(self) -> None:
        seen = list(dict.fromkeys(str(step.public) for step in Step))
        assert seen == ["validate", "bootstrap", "prepare", "train", "evaluate", "package"]
