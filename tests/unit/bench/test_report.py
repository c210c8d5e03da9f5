"""The JSON file and the table."""

import io
import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console

from bench.report import AreaRun, Figure, Machine, Report, figure, measured
from bench.table import number, ratio, table_of

ROOT = Path(__file__).parents[3]
MACHINE = Machine(processor="one [x]", cores=2, memory_gb=4.0, system="Linux", python="3.11", packages={"dspy": "3"}, load_at_start=0.5)
RATE = figure(
    "rollouts",
    "LM of 0 ms",
    measured("rollouts/s", "higher", [300.0, 100.0, 200.0], [100.0, 50.0, 50.0]),
    n=10,
    cpu=measured("CPU ms/call", "lower", [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]),
    other_name="dspy.Evaluate",
    details={"peak_in_flight_ours": 64},
)


def report(*areas: AreaRun, figures: tuple[Figure, ...] = (RATE,)) -> Report:
    return Report(
        date="2026-01-01T00:00:00+00:00", quick=True, seed=0, base_model="tiny", machine=MACHINE, areas=list(areas), figures=list(figures)
    )


def shown(what: Report) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of(what))
    return console.export_text()


OK = AreaRun(area="rollouts", status="ok", seconds=3.0)
FAILED = AreaRun(area="training", status="failed", seconds=1.0, error="Traceback\nSideFailed: trl is missing")


class TestMeasure:
    def test_every_round_is_kept_beside_the_medians(self) -> None:
        wall = RATE.wall
        assert (wall.ours, wall.other, wall.ratio) == (200.0, 50.0, 3.0)
        assert wall.rounds_ours == [300.0, 100.0, 200.0]
        assert RATE.rounds == 3

    def test_a_figure_without_another_side_has_no_ratio(self) -> None:
        alone = measured("ms", "lower", [5.0, 7.0, 6.0])
        assert (alone.ours, alone.other, alone.ratio, alone.rounds_other) == (6.0, None, None, [])


class TestFile:
    def test_what_is_saved_can_be_read_back(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "results.json"
        report(OK, FAILED).save(path)
        assert Report.model_validate_json(path.read_text()) == report(OK, FAILED)

    def test_unknown_keys_are_refused(self) -> None:
        raw = json.loads(report(OK).model_dump_json()) | {"hours": 1}
        with pytest.raises(ValidationError, match="hours"):
            Report.model_validate(raw)


class TestTable:
    def test_a_line_has_both_sides_and_their_ratios(self) -> None:
        (line,) = [line for line in shown(report(OK)).splitlines() if "LM of 0 ms" in line]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells == [
            "LM of 0 ms",
            "rollouts/s",
            "200",
            "50",
            "3.00 (2-4)",
            "CPU ms/call",
            "1",
            "2",
            "2.00 (2-2)",
            "10 x 3",
        ]

    def test_an_area_names_what_it_is_measured_against(self) -> None:
        assert "rollouts against dspy.Evaluate" in shown(report(OK))

    def test_a_failed_area_is_a_line_of_its_own(self) -> None:
        text = shown(report(OK, FAILED))
        assert "trl is missing" in text
        assert "LM of 0 ms" in text

    def test_quick_figures_are_marked_and_the_machine_is_named(self) -> None:
        text = shown(report(OK))
        assert "one [x]" in text
        assert "too few rounds" in text

    @pytest.mark.parametrize(("value", "text"), [(None, ""), (0.01234, "0.0123"), (12.0, "12"), (1234.5, "1,234"), (123456.0, "123,456")])
    def test_numbers_have_three_digits(self, value: float | None, text: str) -> None:
        assert number(value) == text

    def test_one_round_has_no_spread(self) -> None:
        assert ratio(measured("s", "lower", [1.0], [2.0])) == "2.00"
