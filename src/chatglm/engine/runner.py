"""Turns the pieces of a step into tensors, runs the network once, and samples. Never decides what runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from chatglm.engine import attention
from chatglm.engine.adapters import AdapterSet
from chatglm.engine.cache import KVCache, PagedBatch, PagedSequence, runs_of
from chatglm.engine.sampling import Row, Sampled, Sampler
from chatglm.engine.scheduler import Piece


class ModelRunner:
    """Runs one network over a paged cache.

    Args:
        model: ours or stock GLM; anything that looks its attention function up and passes keyword arguments on to it.
        cache: the pool.
        block_size: tokens per block.
        sampler: chooses the tokens.
        filling: which paged attention.
    """

    def __init__(self, model: Any, cache: KVCache, block_size: int, sampler: Sampler, filling: str) -> None:
        self.model, self.cache, self.block_size, self.sampler = model, cache, block_size, sampler
        attention.register()
        self.attention_name = attention.NAMES[filling]
        self.device: torch.device = model.device
        self.prefix = _prefix_of(model)
        self.adapters = AdapterSet(model)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> list[list[Sampled]]:
        """One forward pass -> for each piece the tokens sampled after its last known token and after each draft."""
        ids = [self._piece_ids(piece) for piece in pieces]
        rows = [self._rows(piece) for piece in pieces]
        kept = self._kept_positions(pieces, rows)
        logits = self._forward(pieces, ids, kept)
        flat = [row for piece_rows in rows for row in piece_rows]
        sampled = iter(self.sampler.sample(logits, flat) if flat else [])
        return [[next(sampled) for _ in piece_rows] for piece_rows in rows]

    @torch.inference_mode()
    def logits(self, piece: Piece, first: int) -> Tensor:
        """Float32 logits [n, vocab] of a piece's positions from its `first` on, for scoring."""
        kept = list(range(first, piece.num_tokens))
        return self._forward([piece], [self._piece_ids(piece)], kept).float()

    def _forward(self, pieces: Sequence[Piece], ids: list[list[int]], kept: list[int]) -> Tensor:
        device = self.device
        batch = self._batch(pieces)
        positions = [piece.request.num_computed + offset for piece in pieces for offset in range(piece.num_tokens)]
        pairs = zip(batch.sequences, pieces, strict=True)
        rows = [(slice(s.start, s.start + s.num_new), piece.request.adapter) for s, piece in pairs]
        with self._paged_attention() as extra, _evaluating(self.model), self.adapters.selected(rows):
            outputs = self.model(
                input_ids=torch.tensor([[token for piece_ids in ids for token in piece_ids]], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(kept, device=device, dtype=torch.long),
                paged=batch,
                **extra,
            )
        logits: Tensor = outputs.logits[0]
        return logits

    @staticmethod
    def _piece_ids(piece: Piece) -> list[int]:
        request = piece.request
        start = request.num_computed
        known = [*request.token_ids, *request.draft_ids[: piece.num_drafts]]
        return known[start : start + piece.num_tokens]

    @staticmethod
    def _rows(piece: Piece) -> list[Row]:
        if not piece.samples:
            return []
        request = piece.request
        known = [*request.token_ids, *request.draft_ids[: piece.num_drafts]]
        return [Row(request, known[: len(request.token_ids) + draft]) for draft in range(piece.num_drafts + 1)]

    @staticmethod
    def _kept_positions(pieces: Sequence[Piece], rows: Sequence[Sequence[Row]]) -> list[int]:
        kept: list[int] = []
        end = 0
        for piece, piece_rows in zip(pieces, rows, strict=True):
            end += piece.num_tokens
            kept.extend(range(end - len(piece_rows), end))
        return kept

    def _batch(self, pieces: Sequence[Piece]) -> PagedBatch:
        sequences, slots, start = [], [], 0
        for piece in pieces:
            request, length = piece.request, piece.request.num_computed + piece.num_tokens
            table = request.block_table
            for position in range(request.num_computed, length):
                slots.append(table[position // self.block_size] * self.block_size + position % self.block_size)
            sequences.append(PagedSequence(start, piece.num_tokens, runs_of(table, length, self.block_size)))
            start += piece.num_tokens
        return PagedBatch(self.cache, torch.tensor(slots, device=self.device), sequences, self.prefix)

    @contextmanager
    def _paged_attention(self) -> Iterator[dict[str, str]]:
        """Have the network use our attention for one call -> arguments to pass.

        Our network takes the name as an argument, so that other threads may use it in the meantime. Stock GLM looks it
        up in its configuration, which is changed for the length of the call: there, nobody else may call it.
        """
        config = self.model.config
        if config.model_type == "chatglm":
            yield {"attention_name": self.attention_name}
            return
        before = config._attn_implementation
        config._attn_implementation = self.attention_name
        try:
            yield {}
        finally:
            config._attn_implementation = before


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No dropout for the length of a call; a model in training is left as it was found."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def _prefix_of(model: Any) -> Tensor | None:
    """[L, 2, P, G, D] trained keys and values of a P-Tuning v2 model, None for others."""
    encoder = getattr(getattr(model, "transformer", None), "prefix_encoder", None)
    if encoder is None:
        return None
    was_training = encoder.training
    prefix: Tensor = encoder.eval()(1, model.dtype)[:, :, 0].transpose(2, 3).contiguous()
    encoder.train(was_training)
    return prefix
