"""Paths and statuses of errors."""

from __future__ import annotations

import json

import pytest

from app.errors import MAX_DETAILS, ApiError, error_response, from_house, json_path
from distill import errors as house


class TestJsonPath:
    @pytest.mark.parametrize(
        ("location", "path"),
        [
            (("body", "trainset", 2, "message"), "trainset[2].message"),
            (("body", "trainset", "list[dict[str,any]]", 2), "trainset[2]"),
            (("body", "lms", "student", "train_options", "n_epochs", "literal['auto']"), "lms.student.train_options.n_epochs"),
            (("body", "train_options", "lora_r", "constrained-int"), "train_options.lora_r"),
            (("body", "teacher", "TeacherIn", "lms"), "teacher.lms"),
            (("query", "limit"), "limit"),
            (("body",), None),
        ],
    )
    def test_names_what_the_client_sent(self, location: tuple[str | int, ...], path: str | None) -> None:
        assert json_path(location) == path


class TestHouse:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (house.Invalid("x"), 422),
            (house.Unsupported("x"), 422),
            (house.NotFound("x"), 404),
            (house.Conflict("x"), 409),
            (house.PermissionDenied("x"), 403),
            (house.Unauthenticated("x"), 401),
            (house.LimitExceeded("x"), 429),
            (house.Unavailable("x"), 503),
            (house.StorageError("x"), 500),
        ],
    )
    def test_each_class_has_a_status(self, error: house.StillhouseError, status: int) -> None:
        assert from_house(error).status == status

    def test_retry_after_goes_out(self) -> None:
        assert from_house(house.Unavailable("x", retry_after=7)).headers == {"retry-after": "7"}

    def test_a_cause_inside_the_server_does_not(self) -> None:
        assert "/var/blobs" not in from_house(house.StorageError("cannot read /var/blobs/ab")).message

    def test_details_keep_row_and_field(self) -> None:
        error = from_house(house.Invalid("x", details=(house.Detail("missing", 3, "message"),)))
        assert error.details == [{"message": "missing", "row": 3, "field": "message"}]


class TestResponse:
    def test_details_are_bounded(self) -> None:
        error = ApiError(422, "invalid_rows", "x", details=[{"row": n} for n in range(1000)])
        body = json.loads(bytes(error_response(error, "/v1/datasets").body))
        assert len(body["error"]["details"]) == MAX_DETAILS
