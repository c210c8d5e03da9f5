"""A team's own package of DSPy programs, as an operator installs it for programs that run by reference."""
