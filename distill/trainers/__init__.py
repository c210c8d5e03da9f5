"""Training back ends behind one protocol."""
