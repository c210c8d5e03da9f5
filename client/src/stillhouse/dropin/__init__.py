"""`stillhouse.BootstrapFinetune`: a DSPy optimizer whose work a server does. Needs the extra `dspy`."""
