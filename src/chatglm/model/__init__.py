"""ROOM what the network is: configuration, modules, tokenizer, checkpoints. Needs torch and transformers."""
