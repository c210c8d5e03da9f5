"""Client rollouts: whoever has the program, its tools or its metric works off a job's items over HTTP, and its traces come in as facts."""
