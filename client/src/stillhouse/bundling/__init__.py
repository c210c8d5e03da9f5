"""The caller's own Python, gathered into the document of a bundle."""
