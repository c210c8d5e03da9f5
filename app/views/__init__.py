"""Rows into replies: pure functions, one file a noun."""
