"""What a job points at: projects, keys, connections, programs, datasets, traces, models, artifacts."""
