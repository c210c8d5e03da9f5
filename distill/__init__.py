"""The house: everything that is the server, without a web framework and without dspy."""
