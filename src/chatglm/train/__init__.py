"""DOOR training: data and labels, configuration, methods, the way out; transformers and peft do the work."""
