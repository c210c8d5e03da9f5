"""Tables of the command line, on narrow terminals and in pipes."""

from io import StringIO

import pytest
from rich.console import Console

from stillhouse.cli.tables import draw
from tests.unit.client.conftest import Shell, job, reply

ID = "cjob-06h2036fo9op5dludji4foirg8"
TITLES = ["ID", "STATUS", "CREATED", "WAITS"]
LONG = [ID, "running", "2026-11-28 02:47:20", "all 8 threads of the job are in use"]
DONE = [ID, "succeeded", "2026-11-28 02:47:20", ""]


def drawn(width: int, titles: list[str], *rows: list[str]) -> list[str]:
    shown = StringIO()
    draw(Console(file=shown, width=width, force_terminal=True, color_system=None), titles, rows)
    return [line.rstrip() for line in shown.getvalue().splitlines()]


def test_what_fits_is_a_table() -> None:
    assert drawn(120, TITLES, LONG)[1] == f"{ID}  running  2026-11-28 02:47:20  all 8 threads of the job are in use"


def test_columns_without_room_stand_under_their_row() -> None:
    head, first, below, second = drawn(64, TITLES, LONG, DONE)
    assert head.split() == ["ID", "STATUS", "CREATED"]
    assert first == f"{ID}  running    2026-11-28 02:47:20"
    assert below == "  WAITS all 8 threads of the job are in use"
    assert second == f"{ID}  succeeded  2026-11-28 02:47:20"


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_word_is_broken_that_has_room(width: int) -> None:
    shown = " ".join(drawn(width, TITLES, LONG)).split()
    assert {word for cell in LONG[1:] for word in cell.split()} <= set(shown)


def test_a_long_last_column_wraps_in_its_place() -> None:
    head, first, second, *_ = drawn(40, ["FIELD", "VALUE"], ["answer", "word " * 12])
    assert (head, first.split()[0]) == ("FIELD   VALUE", "answer")
    assert second == "        word word word word word word"


def test_in_a_pipe_a_row_is_a_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = {
        **job("running"),
        "id": ID,
        "step": "bootstrap",
        "progress": {"percent": 2},
        "program_name": "support-router",
        "queue": {"position": None, "reason": LONG[3]},
    }
    shell.answers(reply({"data": [listed], "has_more": False}))
    result = shell.run("jobs", "list")
    (line,) = result.stdout.splitlines()[1:]
    assert line.startswith(ID)
    assert line.endswith(LONG[3])


def test_so_is_one_whose_text_has_lines_of_its_own(shell: Shell) -> None:
    found = {"row": 2, "predictor": "classify", "reason": "failed", "message": "ValueError: two\nlines"}
    shell.answers(reply({"data": [found], "has_more": False}))
    (line,) = shell.run("jobs", "rejections", "cjob-1").stdout.splitlines()[1:]
    assert line.split() == ["2", "classify", "failed", "ValueError:", "two", "lines"]
