"""Processes that do the measured work, ours and the others', each behind the same lines of JSON (`bench.side`)."""
