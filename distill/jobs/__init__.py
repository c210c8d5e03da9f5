"""What a job is, where it stands, who may move it."""
