"""`python -m tests.chaos.dispatcher`: the real dispatcher, which a test can break."""

from tests.chaos import breaks
from workers.dispatcher import main

if __name__ == "__main__":
    breaks.install()
    main()
