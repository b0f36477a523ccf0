"""ROOM messages, prompts and parsing. Standard library only: no tensors, no model."""
