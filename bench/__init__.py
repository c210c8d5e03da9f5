"""`python -m bench`: figures of this server, each beside what people would use without it, measured in the same run."""
