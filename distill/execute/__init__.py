"""One file a step: claim, open repositories, run the pipeline through ports, publish."""
