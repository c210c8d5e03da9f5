"""The one table that a bench prints."""

from __future__ import annotations

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.report import AreaRun, Figure, Measure, Report

_COLUMNS = ("figure", "unit", "ours", "other", "times better", "CPU", "ours", "other", "times better", "n x rounds")
_WORDS = ("figure", "unit", "CPU")


def table_of(report: Report) -> Group:
    """Every figure in a line, every failed area in a line of its own, and beneath it where it was measured."""
    table = Table(title="Ours beside the other side, interleaved in one run: medians, and the median of the rounds' ratios")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=name != "figure")
    for run in report.areas:
        figures = [figure for figure in report.figures if figure.area == run.area]
        others = sorted({figure.other_name for figure in figures if figure.other_name})
        table.add_row(Text(f"{run.area} against {', '.join(others)}" if others else run.area, style="bold"))
        for figure in figures:
            table.add_row(*_cells(figure))
        if run.status == "failed":
            table.add_row(Text(_reason(run), style="red"))
        table.add_section()
    return Group(table, Text(_footer(report), style="dim"))


def _cells(figure: Figure) -> list[str]:
    wall, cpu = figure.wall, figure.cpu
    return [
        escape(figure.name),
        wall.unit,
        number(wall.ours),
        number(wall.other),
        ratio(wall),
        cpu.unit if cpu else "",
        number(cpu.ours if cpu else None),
        number(cpu.other if cpu else None),
        ratio(cpu) if cpu else "",
        f"{figure.n} x {figure.rounds}",
    ]


def number(value: float | None) -> str:
    """Three significant digits, thousands apart."""
    if value is None:
        return ""
    digits = f"{value:.3g}"
    return f"{value:,.0f}" if "e" in digits or abs(value) >= 1000 else digits


def ratio(measure: Measure) -> str:
    """The median ratio with the worst and the best round."""
    if measure.ratio is None:
        return ""
    spread = f" ({measure.ratio_low:.2g}-{measure.ratio_high:.2g})" if len(measure.rounds_ours) > 1 else ""
    return f"{measure.ratio:.2f}{spread}"


def _reason(run: AreaRun) -> str:
    return f"failed after {run.seconds:.0f} s: {(run.error or 'no reason given').splitlines()[-1]}"


def _footer(report: Report) -> str:
    machine = report.machine
    sizes = "quick sizes: too few rounds to quote" if report.quick else "full sizes"
    return (
        f"{report.date} · {machine.processor}, {machine.cores} cores, {machine.memory_gb} GB · Python {machine.python} · "
        f"load at start {machine.load_at_start} · seed {report.seed} · {sizes}"
    )
