"""Datasets as rows: read from any place, summed up, named with versions."""

from typing import Any

import pytest

from distill.catalog import datasets
from distill.db import unit_of_work
from distill.errors import Invalid
from distill.jobs import erasing
from distill.storage import FolderStore
from tests.integration.core.world import World


class TestDatasets:
    def test_slice_is_read_from_its_place(self, world: World) -> None:
        rows = [{"n": number, "pad": "x" * (number % 7)} for number in range(2500)]
        with unit_of_work() as s:
            made = datasets.create(s, world.store, world.project_id, iter(rows))
        assert (made.row_count, len(made.offsets)) == (2500, 3)
        assert list(datasets.rows(world.store, made, 1998, 2003)) == rows[1998:2003]
        assert list(datasets.rows(world.store, made, 2490)) == rows[2490:]
        assert list(datasets.rows(world.store, made, 2500)) == []
        picked = datasets.picked(world.store, made, [2490, 3, 1999, 3, 4, 2500, -1])
        assert picked == {number: rows[number] for number in (3, 4, 1999, 2490)}

    def test_fields_are_summed_up(self, world: World) -> None:
        with unit_of_work() as s:
            made = datasets.create(s, world.store, world.project_id, [{"a": 1}, {"a": "x", "b": None}, {"b": True}])
        assert made.fields == [
            {
                "name": "a",
                "present": 2,
                "types": {"integer": 1, "string": 1},
                "first_missing": 3,
                "kinds": [{"kind": "integer", "rows": 1, "row": 1, "value": 1}, {"kind": "string", "rows": 1, "row": 2, "value": "x"}],
                "values": [{"value": 1, "rows": 1, "row": 1}, {"value": "x", "rows": 1, "row": 2}],
            },
            {
                "name": "b",
                "present": 2,
                "types": {"null": 1, "boolean": 1},
                "first_missing": 1,
                "kinds": [{"kind": "null", "rows": 1, "row": 2, "value": None}, {"kind": "boolean", "rows": 1, "row": 3, "value": True}],
                "values": [{"value": None, "rows": 1, "row": 2}, {"value": True, "rows": 1, "row": 3}],
            },
        ]

    @pytest.mark.parametrize("row", [["a list"], {"x": float("nan")}, {"x": "\ud800"}, {"x": 2**64}])
    def test_row_that_is_no_plain_json_is_named(self, world: World, store: FolderStore, row: Any) -> None:
        with pytest.raises(Invalid) as refusal, unit_of_work() as s:
            datasets.create(s, world.store, world.project_id, [{"x": 1}, row])
        assert refusal.value.param == "[1]"
        assert list((store.root / "incoming").iterdir()) == []

    def test_a_name_counts_versions(self, world: World) -> None:
        with unit_of_work() as s:
            made = [datasets.create(s, world.store, world.project_id, [{"n": number}], name="train") for number in range(2)]
            assert [row.version for row in made] == [1, 2]
            assert datasets.resolve(s, world.project_id, "train@v1").id == made[0].id
            assert datasets.resolve(s, world.project_id, "train@latest").id == made[1].id
            erasing.delete_dataset(s, world.project_id, made[1].id, with_artifacts=False)
            assert datasets.resolve(s, world.project_id, "train@latest").id == made[0].id
