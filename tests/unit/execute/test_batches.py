from distill.execute.batches import batches


class TestBatches:
    def test_groups_stay_under_the_bound_and_in_order(self) -> None:
        texts = ["a" * n for n in (3, 3, 3, 20, 1)]
        found = list(batches(texts, lambda text: text, most=10))
        assert found == [["aaa", "aaa"], ["aaa"], ["a" * 20], ["a"]]

    def test_nothing_gives_no_group(self) -> None:
        assert list(batches([], lambda text: text)) == []
