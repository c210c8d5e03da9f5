import io
import tracemalloc

from distill.lines import cut_lines


class TestCutLines:
    def test_gives_lines_that_fit_as_they_are(self) -> None:
        file = io.BytesIO(b"one\n\nthree\r\nlast")
        assert list(cut_lines(file, 8)) == [b"one\n", b"\n", b"three\r\n", b"last"]

    def test_cuts_what_is_longer_and_goes_on_with_the_next_line(self) -> None:
        file = io.BytesIO(b"0123456789abcdefghij\nnext\n0123456789")
        assert list(cut_lines(file, 4)) == [b"01234", b"next\n", b"01234"]

    def test_a_line_that_ends_where_it_would_be_cut_is_whole(self) -> None:
        file = io.BytesIO(b"0123\nnext\n")
        assert list(cut_lines(file, 4)) == [b"0123\n", b"next\n"]

    def test_never_holds_more_than_a_piece(self) -> None:
        file = io.BytesIO(b"x" * 20_000_000 + b"\nnext\n")
        tracemalloc.start()
        try:
            lines = list(cut_lines(file, 1000))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [len(line) for line in lines] == [1001, 5]
        assert peak < 100_000
