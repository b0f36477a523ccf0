"""ROOM the official calling habits: `model.chat`, `stream_chat`, `quantize(4)`, and the engine a model answers with."""
