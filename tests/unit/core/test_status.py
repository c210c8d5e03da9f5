"""The chart in docs/lifecycle.md is the code's."""

import re
from pathlib import Path

from distill.jobs.status import QUEUE_OF, TRANSITIONS, ItemStatus, JobStatus, Step

PAGE = (Path(__file__).parents[3] / "docs" / "lifecycle.md").read_text(encoding="utf-8")
CHARTS = re.findall(r"```mermaid\n(.*?)```", PAGE, flags=re.DOTALL)


def edges(chart: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^\s*(\w+) --> (\w+)", chart, flags=re.MULTILINE))


class TestChart:
    def test_job_edges_are_the_transitions(self) -> None:
        assert edges(CHARTS[0]) == {(str(source), str(target)) for source, targets in TRANSITIONS.items() for target in targets}

    def test_every_edge_has_a_letter_that_the_table_explains(self) -> None:
        letters = set(re.findall(r": ([A-Z])$", CHARTS[0], flags=re.MULTILINE))
        assert letters == set(re.findall(r"^\| ([A-Z]) \|", PAGE, flags=re.MULTILINE))

    def test_item_chart_knows_every_status(self) -> None:
        assert {word for edge in edges(CHARTS[1]) for word in edge} == {str(status) for status in ItemStatus}


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
