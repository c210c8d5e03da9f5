"""Uploading rows in every form, and what is said about rows that cannot be read."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from arro3.core import Array, DataType, RecordBatch
from arro3.io import write_parquet
from starlette.testclient import TestClient

from tests.integration.api.conftest import fault
from tests.support.databases import forget_settings

JSONL = {"Content-Type": "application/jsonl"}
CSV = {"Content-Type": "text/csv"}


class TestUpload:
    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b'{"message": "a", "n": 1}\n\n{"message": "b"}', "application/jsonl"),
            (b'{"message": "a", "n": 1}\r\n{"message": "b"}\r\n', "application/x-ndjson"),
            (b'[{"message": "a", "n": 1}, {"message": "b"}]', "application/json"),
            (b'{"rows": [{"message": "a", "n": 1}, {"message": "b"}]}', "application/json; charset=utf-8"),
            (b'[{"message": "a", "n": 1}, {"message": "b"}]', "application/x-www-form-urlencoded"),
        ],
    )
    def test_forms(self, api: TestClient, body: bytes, kind: str) -> None:
        reply = api.post("/v1/datasets", content=body, headers={"Content-Type": kind})
        assert reply.status_code == 201, reply.text
        dataset = reply.json()
        assert dataset["rows"] == 2
        assert dataset["columns"][1] == {
            "name": "n",
            "types": ["integer"],
            "missing": 1,
            "kinds": [{"kind": "integer", "rows": 1, "row": 1}],
            "values": [{"value": 1, "rows": 1, "row": 1}],
        }

    def test_csv_cells_stay_text_and_may_span_lines(self, api: TestClient) -> None:
        body = '\ufeffmessage,zip\n"two\nlines, ""quoted""",01234\nb,5\n'.encode()
        dataset = api.post("/v1/datasets?name=support", content=body, headers=CSV).json()
        rows = api.get(f"/v1/datasets/{dataset['id']}/rows").json()["data"]
        assert rows[0] == {"row": 1, "data": {"message": 'two\nlines, "quoted"', "zip": "01234"}}
        assert (dataset["name"], dataset["version"]) == ("support", 1)

    def test_a_summary_of_the_cells_of_a_csv(self, api: TestClient) -> None:
        body = b"n,team\n1,billing\n02,other\nx,billing\n"
        columns = api.post("/v1/datasets", content=body, headers=CSV).json()["columns"]
        assert columns[0]["kinds"] == [{"kind": "integer", "rows": 2, "row": 1}, {"kind": "text", "rows": 1, "row": 3}]
        assert columns[1]["values"] == [{"value": "billing", "rows": 2, "row": 1}, {"value": "other", "rows": 1, "row": 2}]

    def test_a_parquet_file(self, api: TestClient) -> None:
        table = RecordBatch.from_pydict(
            {"message": Array(["a", "b"], type=DataType.string()), "n": Array([7, None], type=DataType.int64())}
        )
        body = io.BytesIO()
        write_parquet(table, body)
        made = api.post("/v1/datasets", content=body.getvalue(), headers={"Content-Type": "application/vnd.apache.parquet"})
        assert made.status_code == 201, made.text
        assert [(each["name"], each["types"]) for each in made.json()["columns"]] == [("message", ["string"]), ("n", ["integer", "null"])]
        rows = api.get(f"/v1/datasets/{made.json()['id']}/rows").json()["data"]
        assert [row["data"] for row in rows] == [{"message": "a", "n": 7}, {"message": "b", "n": None}]

    def test_a_file_in_a_form(self, api: TestClient) -> None:
        files = {"file": ("train.jsonl", b'{"message": "a"}\n', "application/octet-stream")}
        reply = api.post("/v1/datasets", files=files, data={"name": "support-train"})
        assert reply.status_code == 201, reply.text
        assert (reply.json()["rows"], reply.json()["name"]) == (1, "support-train")

    def test_json_says_name_and_metadata_beside_its_rows(self, api: TestClient) -> None:
        body = {"name": "support-train", "rows": [{"message": "a"}], "metadata": {"week": "47"}}
        made = api.post("/v1/datasets", json=body)
        assert made.status_code == 201, made.text
        assert (made.json()["name"], made.json()["version"], made.json()["metadata"]) == ("support-train", 1, {"week": "47"})
        named = api.post("/v1/datasets", params={"name": "other", "metadata[week]": "48"}, json=body).json()
        assert (named["name"], named["metadata"]) == ("other", {"week": "48"}), "the address has the last word"

    @pytest.mark.parametrize(
        ("wrong", "param"), [({"nmae": "s"}, "nmae"), ({"name": "no spaces"}, "name"), ({"metadata": {"week": 47}}, "metadata.week")]
    )
    def test_json_that_says_something_else(self, api: TestClient, wrong: dict[str, Any], param: str) -> None:
        reply = api.post("/v1/datasets", json={"rows": [{"message": "a"}], **wrong})
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, param), reply.text
        assert api.get("/v1/datasets").json()["data"] == []

    def test_a_name_counts_versions(self, api: TestClient) -> None:
        for number in (1, 2):
            made = api.post("/v1/datasets?name=s", content=json.dumps([{"n": number}]), headers={"Content-Type": "application/json"})
            assert made.json()["version"] == number
        assert api.get("/v1/datasets/s@latest").json()["version"] == 2
        assert api.get("/v1/datasets/s@v1").json()["version"] == 1

    def test_metadata(self, api: TestClient) -> None:
        made = api.post("/v1/datasets?metadata[source]=crm", content=b'{"a": 1}', headers=JSONL).json()
        assert made["metadata"] == {"source": "crm"}


class TestRefused:
    @pytest.mark.parametrize(
        ("body", "headers", "row"),
        [
            (b'{"a": 1}\n{"a": }\n', JSONL, 2),
            (b'{"a": 1}\n[1]\n', JSONL, 2),
            (b'{"a": 1}\n\n{"a": NaN}\n', JSONL, 2),
            (b"a,b\n1,2\n3\n", CSV, 2),
            (b'a,b\n1,"2\n', CSV, 1),
        ],
    )
    def test_the_row_is_named(self, api: TestClient, body: bytes, headers: dict[str, str], row: int) -> None:
        reply = api.post("/v1/datasets", content=body, headers=headers)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (422, "invalid_rows")
        assert error["details"][0]["row"] == row
        assert api.get("/v1/datasets").json()["data"] == []

    def test_a_line_that_is_too_long_is_never_read_whole(self, api: TestClient) -> None:
        body = b'{"message": "a"}\n{"message": "' + b"x" * 3_000_000 + b'"}\n'
        reply = api.post("/v1/datasets", content=body, headers=JSONL)
        assert reply.status_code == 422
        assert reply.json()["error"]["details"] == [{"row": 2, "field": None, "message": "(line 2) is larger than 1000000 bytes"}]

    def test_neither_is_a_line_of_a_csv(self, api: TestClient) -> None:
        reply = api.post("/v1/datasets", content=b"message\na\n" + b"x" * 3_000_000 + b"\nb\n", headers=CSV)
        assert reply.status_code == 422
        assert reply.json()["error"]["details"] == [{"row": 2, "field": None, "message": "(line 3) is longer than 1000000 characters"}]

    def test_every_row_that_cannot_be_read_is_counted(self, api: TestClient) -> None:
        body = b"".join(b'{"a": 1}\n' if number % 2 else b"{\n" for number in range(50))
        error = api.post("/v1/datasets", content=body, headers=JSONL).json()["error"]
        assert error["message"].endswith("25 rows cannot be read.")
        assert [detail["row"] for detail in error["details"]] == list(range(1, 41, 2))

    @pytest.mark.parametrize(("body", "headers"), [(b"a,a\n1,2\n", CSV), (b"", CSV), (b"\xff\xfe", CSV)])
    def test_bad_csv(self, api: TestClient, body: bytes, headers: dict[str, str]) -> None:
        assert api.post("/v1/datasets", content=body, headers=headers).status_code == 422

    def test_other_types_are_415(self, api: TestClient) -> None:
        reply = api.post("/v1/datasets", content=b"%PDF", headers={"Content-Type": "application/pdf"})
        assert reply.status_code == 415
        assert "text/csv" in reply.json()["error"]["message"]

    def test_a_form_needs_a_file(self, api: TestClient) -> None:
        reply = api.post("/v1/datasets", files={"other": ("a.jsonl", b"{}")})
        assert reply.json()["error"]["param"] == "file"

    @pytest.mark.parametrize("kind", ["text/csv", "application/jsonl"])
    def test_more_rows_than_the_operator_allows(self, api: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """Rows of one letter are small, and as much work as others."""
        monkeypatch.setenv("STILLHOUSE_LIMITS__MAX_DATASET_ROWS", "3")
        forget_settings()
        row = b"b\n" if kind == "text/csv" else b'{"a":"b"}\n'
        head = b"a\n" if kind == "text/csv" else b""
        assert api.post("/v1/datasets", content=head + row * 3, headers={"Content-Type": kind}).status_code == 201
        reply = api.post("/v1/datasets", content=head + row * 4, headers={"Content-Type": kind})
        assert fault(reply) == ("dataset_too_large", "rows", "there are more than 3 rows ([limits] max_dataset_rows); upload them in parts")


class TestRead:
    def test_rows_page_by_number(self, api: TestClient) -> None:
        body = "\n".join(json.dumps({"n": number}) for number in range(1, 2501)).encode()
        dataset = api.post("/v1/datasets", content=body, headers=JSONL).json()
        page = api.get(f"/v1/datasets/{dataset['id']}/rows?start=1999&limit=3").json()
        assert [(row["row"], row["data"]["n"]) for row in page["data"]] == [(1999, 1999), (2000, 2000), (2001, 2001)]
        assert (page["has_more"], page["next_row"]) == (True, 2002)
        last = api.get(f"/v1/datasets/{dataset['id']}/rows?start=2500").json()
        assert (len(last["data"]), last["has_more"], last["next_row"]) == (1, False, None)

    def test_deleted_is_gone(self, api: TestClient) -> None:
        dataset = api.post("/v1/datasets", content=b'{"a": 1}', headers=JSONL).json()
        assert api.delete(f"/v1/datasets/{dataset['id']}").json()["deleted"] is True
        assert api.get(f"/v1/datasets/{dataset['id']}").status_code == 404
