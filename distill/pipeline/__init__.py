"""What each step of a job decides. Values in, values out: no rows, no files, no clock, no network."""
