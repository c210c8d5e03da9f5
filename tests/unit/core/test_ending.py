"""A process of ours that is told to end and waits for something."""

import signal
import subprocess
import sys

WAITS_FOR_EVER = """
import threading
from distill import ending

ending.when_told(lambda: print("told", flush=True), seconds=1)
print("waits", flush=True)
threading.Event().wait()
"""


def test_what_waits_for_ever_is_ended_all_the_same() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS_FOR_EVER], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waits\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "told\n"
        assert child.wait(30) == -signal.SIGALRM
