"""DOOR how good a model is: perplexity of a text."""
