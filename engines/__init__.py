"""The weights: separate processes that load torch; their contract is files and HTTP."""
