"""Door 1, HTTP: translates a request, calls a service, translates the result."""
