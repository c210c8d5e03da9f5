import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from distill.pipeline.prepare import Row
from distill.pipeline.sides import FEWEST_ROWS_TO_WATCH, validation_groups
from tests.support.shelves import MemoryShelf, row


def held(rows: list[Row], fewest: int = 50) -> frozenset[str]:
    return validation_groups(rows, MemoryShelf(), fewest)


def plain(n: int) -> list[Row]:
    return [row("classify", i) for i in range(n)]


class TestValidationGroups:
    def test_few_rows_are_all_trained_on(self) -> None:
        assert held(plain(49)) == frozenset()

    def test_a_tenth_watches_and_never_more_than_256(self) -> None:
        assert len(held(plain(200))) == 20
        assert len(held(plain(9000))) == 256

    def test_one_group_of_everything_is_trained_on(self) -> None:
        assert held([row("classify", i, group="g") for i in range(100)]) == frozenset()

    def test_early_stopping_gets_rows_to_watch_even_when_there_are_few(self) -> None:
        assert len(held(plain(12), FEWEST_ROWS_TO_WATCH)) == 1

    def test_the_order_of_arrival_does_not_matter(self) -> None:
        rows = [row("classify", i, label="ab"[i % 2]) for i in range(150)]
        assert held(rows) == held(random.Random(1).sample(rows, len(rows)))

    def test_every_label_has_its_share(self) -> None:
        labels = ["rare"] * 20 + ["common"] * 180
        rows = [row("classify", i, label=label) for i, label in enumerate(labels)]
        chosen = held(rows)
        assert Counter(each.labels["category"] for each in rows if each.group in chosen) == {"rare": 2, "common": 18}

    def test_groups_of_several_rows_do_not_starve_a_label(self) -> None:
        rows = [row(name, i, label="abc"[i % 3] if name == "classify" else None) for i in range(90) for name in ("classify", "reply")]
        chosen = held(rows)
        assert set(Counter(each.labels["category"] for each in rows if each.group in chosen if each.labels).values()) == {3}

    def test_the_only_group_of_a_label_is_trained_on(self) -> None:
        rows = [*(row("classify", i, label="often") for i in range(50)), *(row("classify", i, label=f"once {i}") for i in range(50, 100))]
        assert held(rows) <= {f"i{i}" for i in range(50)}
        assert len(held(rows)) == 10

    def test_where_all_labels_differ_some_rows_watch_all_the_same(self) -> None:
        assert len(held([row("classify", i, label=f"once {i}") for i in range(100)])) == 10

    @given(st.lists(st.tuples(st.integers(0, 25), st.sampled_from(["a", "b", "c", None])), min_size=50, max_size=200))
    def test_no_label_and_no_group_is_lost_to_training(self, drawn: list[tuple[int, str | None]]) -> None:
        rows = [row("classify", i, group=f"g{group}", label=label) for i, (group, label) in enumerate(drawn)]
        chosen = held(rows)
        assert chosen < {each.group for each in rows}
        assert sum(each.group in chosen for each in rows) <= 2 * max(1, round(len(rows) / 10))
