"""DOOR the server: the OpenAI and Anthropic formats over one engine.

`protocol/` says what clients may send and get, `app` binds routes, `service` joins the engine and the tokenizer.
"""
