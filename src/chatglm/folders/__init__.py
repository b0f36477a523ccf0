"""ROOM from a folder to another folder: describe, quantize, calibrate, gguf."""
