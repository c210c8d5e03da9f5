"""Who ended the process: found by halves, blamed once it is certain."""

from distill.execute.suspects import UNEXPLAINED, Suspects


def found(examples: int, width: int, killers: set[int]) -> tuple[list[int], int, int]:
    """Run examples as rollouts do, `killers` ending the process. Returns the culprits, the deaths, and how often others ran in vain."""
    suspects, pending, culprits, deaths, in_vain = Suspects(), set(range(examples)), [], 0, 0
    while pending:
        group = suspects.next(pending)
        for index in [index for index in sorted(pending) if index in group or not group]:
            if index not in killers:
                pending.discard(index)  # it was over before the next one died
                continue
            deaths += 1
            left = [other for other in sorted(pending) if other in group or not group][: len(group) or width]
            in_vain += len(set(left) - killers)
            culprit = suspects.died(left, suspected=bool(group))
            if culprit is not None:
                culprits.append(culprit)
                pending.discard(culprit)
            break
    return culprits, deaths, in_vain


class TestSuspects:
    def test_nobody_is_suspected_before_a_death(self) -> None:
        assert Suspects().next({1, 2}) == []

    def test_every_killer_is_found_and_nobody_else(self) -> None:
        for width in (1, 2, 3, 8, 64):
            for killers in ({0}, {63}, {5, 6}, {1, 9, 33, 34, 60}):
                culprits, deaths, in_vain = found(64, width, killers)
                assert sorted(culprits) == sorted(killers)
                assert deaths <= len(killers) * (width.bit_length() + 2)
                assert in_vain <= len(killers) * 2 * width

    def test_one_death_alone_may_be_an_accident(self) -> None:
        suspects = Suspects()
        assert suspects.died([4], suspected=False) is None
        assert suspects.next({4}) == [4]
        assert suspects.died([4], suspected=True) is None, "its first death may have been another's doing"
        assert suspects.next({4}) == [4]
        assert suspects.died([4], suspected=True) == 4

    def test_who_holds_its_process_needs_no_second_look(self) -> None:
        suspects = Suspects()
        suspects.died([4], suspected=False, once=True)
        assert suspects.died(suspects.next({4}), suspected=True, once=True) == 4

    def test_who_is_over_is_not_suspected_any_more(self) -> None:
        suspects = Suspects()
        suspects.died([1, 2, 3, 4], suspected=False)
        assert suspects.next({4}) == [4]
        assert suspects.next({4}) == []

    def test_deaths_without_a_culprit_have_an_end(self) -> None:
        suspects = Suspects()
        for _ in range(UNEXPLAINED):
            suspects.died([1, 2], suspected=False)
        assert not suspects.is_unexplained
        suspects.died([1, 2], suspected=False)
        assert suspects.is_unexplained
