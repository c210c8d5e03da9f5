"""Rows on disk come back as they would from memory."""

import random
from pathlib import Path

from distill.execute.parts import OPEN_FILES, PartTexts
from distill.execute.shelf import DiskShelf
from distill.pipeline.keys import Key
from distill.pipeline.prepare import Filter, Row, settle
from distill.pipeline.sides import validation_groups
from distill.storage import FolderStore
from tests.support.shelves import MemoryShelf, row

KEY = Key("v1:s", "", "student", ("classify",))


def rows(n: int) -> list[Row]:
    made = [row("classify", i % 40, n=i, digest=f"d{i % 70}", score=(i % 5) / 4, label="ab"[i % 2]) for i in range(n)]
    return random.Random(2).sample(made, n)


class TestDiskShelf:
    def test_sorting_in_pieces_gives_what_sorting_at_once_gives(self, tmp_path: Path) -> None:
        made = DiskShelf(tmp_path, most=16).sort(rows(100), lambda each: each.order)
        assert list(made) == sorted(rows(100), key=lambda each: each.order)
        assert list(made) == list(made)

    def test_kept_rows_stay_in_their_order(self, tmp_path: Path) -> None:
        made = DiskShelf(tmp_path, most=16).keep(iter(rows(100)))
        assert list(made) == list(made) == rows(100)

    def test_nothing_lies_on_disk_for_few_rows(self, tmp_path: Path) -> None:
        assert list(DiskShelf(tmp_path, most=16).keep([])) == []
        assert list(DiskShelf(tmp_path, most=16).sort(rows(15), lambda each: each.order))
        assert list(tmp_path.iterdir()) == []

    def test_a_key_is_settled_as_in_memory(self, tmp_path: Path) -> None:
        keep = Filter(top_k=2, max_rows=60)
        disk, memory = DiskShelf(tmp_path, most=16), MemoryShelf()
        one, two = settle(KEY, rows(200), keep, 3, disk), settle(KEY, rows(200), keep, 3, memory)
        assert list(one.rows) == list(two.rows)
        assert one.left_out == two.left_out
        assert validation_groups(one.rows, disk, 10) == validation_groups(two.rows, memory, 10)


class TestPartTexts:
    def test_texts_are_read_from_more_parts_than_stay_open(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path)
        parts = [store.put(f"part {number}".encode()) for number in range(OPEN_FILES + 3)]
        with PartTexts(store) as texts:
            read = [texts.read(part, 5, 10) for part in [*parts, *parts]]
        assert read == [str(number).encode() for number in range(len(parts))] * 2
