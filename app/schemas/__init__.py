"""Wire bodies, one file a noun: what a client may send and what it gets back."""
