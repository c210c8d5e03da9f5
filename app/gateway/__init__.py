"""The gateway: OpenAI's chat route over the relay, with our API keys."""
