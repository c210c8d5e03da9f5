"""The embedded stack: servers from wheels, one supervisor, the stillhouse-server command."""
