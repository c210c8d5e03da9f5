"""Everything that touches dspy: used by the runner on the server and by the SDK on the client."""
