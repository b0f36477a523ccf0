"""The embedded tiny model: its text, its tokenizer, its training recipe and its weights."""
