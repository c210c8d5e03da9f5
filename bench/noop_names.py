"""What the bench and its worker agree on. Apart from the worker, whose import puts other steps in the place of the real ones."""

CAPABILITY = "bench:items"
PREFIX = "items:"
