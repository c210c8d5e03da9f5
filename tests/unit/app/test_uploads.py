"""Reading rows from bytes."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from arro3.core import Array, DataType, RecordBatch
from arro3.io import infer_json_schema, read_json, write_parquet
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


def parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    write_parquet(RecordBatch.from_pydict(columns), out)
    return out.getvalue()


class TestParquet:
    def test_values_become_json(self) -> None:
        body = parquet(
            text=Array(["a", None], type=DataType.string()),
            number=Array([1.5, 2.0], type=DataType.float64()),
            day=Array([20455, 20456], type=DataType.int32()).cast(DataType.date32()),
            raw=Array([b"ok", b"\xc3\xa9"], type=DataType.binary()),
        )
        assert read(body, "parquet") == [
            {"text": "a", "number": 1.5, "day": "2026-01-02", "raw": "ok"},
            {"text": None, "number": 2.0, "day": "2026-01-03", "raw": "é"},
        ]

    def test_lists_and_objects(self) -> None:
        rows = [{"tags": ["x", "y"], "who": {"zeta": 1, "b": 2}}, {"tags": [], "who": {"zeta": 3, "b": 4}}]
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        out = io.BytesIO()
        write_parquet(read_json(io.BytesIO(text), infer_json_schema(io.BytesIO(text))), out)
        assert read(out.getvalue(), "parquet") == rows

    def test_a_value_that_is_no_json_is_named(self) -> None:
        with pytest.raises(ApiError) as raised:
            read(parquet(score=Array([1.0, float("nan")], type=DataType.float64())), "parquet")
        assert raised.value.details[0]["row"] == 2
        assert raised.value.param == "[1].score"

    def test_a_bomb_is_not_unpacked_into_a_row(self) -> None:
        """A file of a few kilobytes may hold a cell of any size."""
        out = io.BytesIO()
        write_parquet(
            RecordBatch.from_pydict({"text": Array(["a", "b" * 20_000_000, "c"], type=DataType.string())}), out, compression="zstd(1)"
        )
        assert out.tell() < 20_000
        with pytest.raises(ApiError) as refused:
            read(out.getvalue(), "parquet")
        assert refused.value.details == [{"row": 2, "field": None, "message": "is larger than 1000000 bytes"}]

    def test_a_damaged_file_harms_nothing(self) -> None:
        """Some files end the process that reads them: it is not this one."""
        body = parquet(text=Array(["a"] * 100, type=DataType.string()))
        for damaged in (b"PAR1", body[:-20] + body[-10:], body[: len(body) // 2]):
            with pytest.raises(ApiError, match="not a Parquet file"):
                read(damaged, "parquet")


class TestFaults:
    @pytest.mark.parametrize(
        ("body", "kind", "row", "words"),
        [
            (b'{"a":1}\n\n\n{"a":}\n', "jsonl", 2, "line 4"),
            (b"a,b\n1,2\n\n3\n", "csv", 2, "has 1 cell, the header has 2"),
            (b'a,b\n1,2\n"3\n,4\n', "csv", 2, "the file ends within a quoted cell"),
            (b'a,b\n"1\n2",3\n4,5,6\n', "csv", 2, "line 4"),
            (b"[1]", "json", 1, "not an object"),
        ],
    )
    def test_name_row_and_line(self, body: bytes, kind: str, row: int, words: str) -> None:
        with pytest.raises(ApiError) as raised:
            read(body, kind)
        assert raised.value.details[0]["row"] == row
        assert words in raised.value.message

    def test_rows_after_a_bad_one_are_read_for_their_faults_alone(self) -> None:
        given = rows_of(Upload(io.BytesIO(b'{"a":1}\n[]\n{"a":2}\n{"a":\n'), "jsonl", ""))
        assert next(given) == {"a": 1}
        with pytest.raises(ApiError) as raised:
            next(given)
        assert [detail["row"] for detail in raised.value.details] == [2, 4]

    def test_a_csv_row_of_many_lines_is_never_held_whole(self) -> None:
        """Each cell may be as long as a row; their lines are one row all the same."""
        cell = b'"' + b"x" * 899_000 + b'\n"'
        body = b"a,b\n1,2\n" + b",".join([cell] * 20) + b"\n"
        tracemalloc.start()
        try:
            with pytest.raises(ApiError) as refused:
                read(body, "csv")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert refused.value.details == [{"row": 2, "field": None, "message": "(line 4) is longer than 1000000 characters"}]
        assert peak < 8_000_000

    def test_csv_rows_of_many_lines_that_fit_are_rows(self) -> None:
        body = b"a\n" + b'"x\ny"\n' * 3 + b'"' + (b"x" * 99 + b"\n") * 9_000 + b'"\n' + b'"' + (b"y" * 99 + b"\n") * 9_000 + b'"\n'
        assert [len(row["a"]) for row in read(body, "csv")] == [3, 3, 3, 900_000, 900_000]

    def test_at_most_twenty_are_named_and_all_are_counted(self) -> None:
        with pytest.raises(ApiError) as raised:
            read(b"a,b\n" + b"1\n" * 30, "csv")
        assert (len(raised.value.details), "30 rows cannot be read" in raised.value.message) == (20, True)

    def test_never_repeat_the_cells(self) -> None:
        with pytest.raises(ApiError) as raised:
            read(b'a,b\n1,2\n"sk-secret\n', "csv")
        assert "sk-secret" not in raised.value.message
