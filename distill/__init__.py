"""The house: everything that is the server, without a web framework and without dspy."""

VERSION = "0.1.0"
"""Of the server."""
