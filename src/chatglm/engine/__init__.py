"""ROOM token ids in, token ids out: paged cache, continuous batching, prefix reuse, sampling. Needs torch."""
