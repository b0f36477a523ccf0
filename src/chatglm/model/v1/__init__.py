"""ChatGLM-6B, the first generation: its network, tokenizer and folders, under the official names."""
