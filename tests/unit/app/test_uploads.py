"""Reading rows from bytes."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ApiError
from app.uploads import Upload, rows_of

NAMES = st.lists(st.text(alphabet="abcxyz", min_size=1, max_size=5), min_size=1, max_size=4, unique=True)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20)


def read(body: bytes, kind: str) -> list[dict[str, Any]]:
    return list(rows_of(Upload(io.BytesIO(body), kind, "")))


class TestRoundTrip:
    @given(st.data())
    def test_csv(self, data: st.DataObject) -> None:
        names = data.draw(NAMES)
        rows = [dict(zip(names, cells, strict=True)) for cells in data.draw(st.lists(st.tuples(*[CELLS] * len(names))))]
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, names, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        assert read(out.getvalue().encode(), "csv") == rows

    @given(st.lists(st.dictionaries(CELLS, st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), CELLS))))
    def test_jsonl(self, rows: list[dict[str, Any]]) -> None:
        body = "".join(json.dumps(row) + "\n" for row in rows).encode()
        assert read(body, "jsonl") == rows


class TestFaults:
    @pytest.mark.parametrize(
        ("body", "kind", "row", "words"),
        [
            (b'{"a":1}\n\n\n{"a":}\n', "jsonl", 2, "line 4"),
            (b"a,b\n1,2\n\n3\n", "csv", 2, "has 1 cells"),
            (b'a,b\n"1\n2",3\n4,5,6\n', "csv", 2, "line 4"),
            (b"[1]", "json", 1, "not an object"),
        ],
    )
    def test_name_row_and_line(self, body: bytes, kind: str, row: int, words: str) -> None:
        with pytest.raises(ApiError) as raised:
            read(body, kind)
        assert raised.value.details[0]["row"] == row
        assert words in raised.value.message

    def test_never_repeat_the_cells(self) -> None:
        with pytest.raises(ApiError) as raised:
            read(b'a,b\n1,2\n"sk-secret\n', "csv")
        assert "sk-secret" not in raised.value.message
