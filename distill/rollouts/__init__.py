"""Runner processes: start, feed, read back."""
