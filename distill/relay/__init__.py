"""An OpenAI-shaped request in, bytes out: resolve, key, limit, retry, usage. No SQL."""
