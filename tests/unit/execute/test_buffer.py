import queue
import threading

import pytest

from distill.execute.buffer import Buffer


class TestBuffer:
    def test_a_full_batch_is_written_before_the_time_is_up(self) -> None:
        written: queue.Queue[list[int]] = queue.Queue()
        with Buffer(written.put, batch=2, seconds=60) as buffer:
            buffer.add(1)
            buffer.add(2)
            assert written.get(timeout=5) == [1, 2]

    def test_a_lone_fact_is_written_when_the_time_is_up(self) -> None:
        written: queue.Queue[list[int]] = queue.Queue()
        with Buffer(written.put, batch=100, seconds=0.01) as buffer:
            buffer.add(1)
            assert written.get(timeout=5) == [1]

    def test_the_rest_is_written_even_when_the_work_fails(self) -> None:
        written: queue.Queue[list[int]] = queue.Queue()

        def work() -> None:
            with Buffer(written.put, batch=100, seconds=60) as buffer:
                buffer.add(1)
                raise RuntimeError("work")

        with pytest.raises(RuntimeError, match="work"):
            work()
        assert written.get_nowait() == [1]

    def test_a_failed_write_stops_the_work(self) -> None:
        failed = threading.Event()

        def refuse(batch: list[int]) -> None:
            failed.set()
            raise OSError("disk full")

        def work() -> None:
            with Buffer(refuse, batch=1) as buffer:
                buffer.add(1)
                assert failed.wait(5)

        with pytest.raises(OSError, match="disk full"):
            work()
