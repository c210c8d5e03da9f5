import queue
import threading

import pytest
from sqlalchemy.exc import OperationalError

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

    def test_all_of_it_is_written_when_somebody_waits_for_that(self) -> None:
        written: list[list[int]] = []
        with Buffer(written.append, batch=2, seconds=60) as buffer:
            buffer.drain()
            for number in range(3):
                buffer.add(number)
            buffer.drain()
            assert written == [[0, 1], [2]]

    def test_who_waits_for_that_hears_that_it_cannot_be_written(self) -> None:
        def write(batch: list[int]) -> None:
            raise ValueError("no")

        def work() -> None:
            with Buffer(write, seconds=60) as buffer:
                buffer.add(1)
                buffer.drain()

        with pytest.raises(ValueError, match="no"):
            work()

    def test_the_rest_is_written_even_when_the_work_fails(self) -> None:
        written: queue.Queue[list[int]] = queue.Queue()

        def work() -> None:
            with Buffer(written.put, batch=100, seconds=60) as buffer:
                buffer.add(1)
                raise RuntimeError("work")

        with pytest.raises(RuntimeError, match="work"):
            work()
        assert written.get_nowait() == [1]

    def test_what_a_passing_outage_held_up_is_written_after_it(self) -> None:
        written: list[int] = []
        outages = [OperationalError("COPY", None, OSError("the server is starting up")) for _ in range(2)]

        def write(batch: list[int]) -> None:
            if outages:
                raise outages.pop()
            written.extend(batch)

        with Buffer(write, batch=2, pause=0.001) as buffer:
            for number in range(5):
                buffer.add(number)
        assert written == [0, 1, 2, 3, 4]

    def test_an_outage_that_lasts_stops_the_work(self) -> None:
        def refuse(batch: list[int]) -> None:
            raise OperationalError("COPY", None, OSError("no route to host"))

        def work() -> None:
            with Buffer(refuse, patience=0.05, pause=0.001) as buffer:
                buffer.add(1)

        with pytest.raises(OperationalError, match="no route"):
            work()

    def test_no_more_than_a_batch_waits_beside_the_one_that_is_being_written(self) -> None:
        writing, go_on, added = threading.Event(), threading.Event(), []

        def write(batch: list[int]) -> None:
            assert len(batch) <= 2
            writing.set()
            assert go_on.wait(5)

        def fill(buffer: Buffer[int]) -> None:
            for number in range(10):
                buffer.add(number)
                added.append(number)

        with Buffer(write, batch=2) as buffer:
            filler = threading.Thread(target=fill, args=(buffer,))
            filler.start()
            assert writing.wait(5)
            filler.join(0.2)
            assert len(added) <= 4
            go_on.set()
            filler.join(5)
        assert len(added) == 10

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
