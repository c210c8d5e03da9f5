"""Question classification on TREC-6: the example behind `make demo`."""
