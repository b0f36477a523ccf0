"""What clients send and get: pydantic models of the OpenAI and Anthropic formats. No engine, no web server."""
