"""`python -m tests.integration.execute.worker_process JOB …`: a worker and an agent in one process that a test may kill."""

import argparse
import sys
import threading
from pathlib import Path

from distill.errors import StillhouseError
from tests.integration.execute.house import House
from tests.support.scripted_lm import ScriptedLM

SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--project", required=True)
    parser.add_argument("--teacher", type=int, required=True, help="port")
    parser.add_argument("--student", type=int, required=True, help="port")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs programs")
    parser.add_argument("--reference", action="append", default=[], help="a package that programs may name")
    given = parser.parse_args()
    teacher, student = ScriptedLM(port=given.teacher), ScriptedLM(port=given.student)
    place = {"device": "cpu-0", "project": given.project, "python": given.python}
    with House(given.folder, teacher, student, references=tuple(given.reference), **place) as house:
        over = threading.Event()
        threading.Thread(target=_agent, args=(house, over), daemon=True).start()
        house.run(given.job, SECONDS, until=lambda job: job.status == "paused")
        over.set()


def _agent(house: House, over: threading.Event) -> None:
    while not over.wait(0.02):
        try:
            house.agent.tick()
        except StillhouseError:
            continue


if __name__ == "__main__":
    main()
