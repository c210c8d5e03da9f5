"""Door 2, the queue: translates a hint and calls distill.execute."""
