"""Turns the pieces of a step into tensors, runs the network once, and samples. Never decides what runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from chatglm.engine import attention, fillings, native_attention, triton_attention  # noqa: F401  # they register themselves
from chatglm.engine.adapters import AdapterSet
from chatglm.engine.blocks import BlockManager
from chatglm.engine.cache import KVCache, PagedBatch, PagedSequence
from chatglm.engine.layout import Layouts
from chatglm.engine.purpose import Purpose
from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.rows import Context, Row
from chatglm.engine.sampling import Sampled, Sampler
from chatglm.engine.scheduler import Piece
from chatglm.engine.scoring import AT_ONCE, judged
from chatglm.engine.static import CudaGraphs, StaticDecoder
from chatglm.engine.warping import on_device
from chatglm.errors import RequestError


class ModelRunner:
    """Runs one network over a paged cache.

    Args:
        model: ours or stock GLM; anything that looks its attention function up and passes keyword arguments on to it.
        cache: the pool.
        block_size: tokens per block.
        sampler: chooses the tokens.
        filling: which paged attention; see `EngineConfig.attention`.
    """

    def __init__(self, model: Any, cache: KVCache, block_size: int, sampler: Sampler, filling: str) -> None:
        self.model, self.cache, self.block_size, self.sampler = model, cache, block_size, sampler
        self.device: torch.device = model.device
        self.prefix = _prefix_of(model)
        self.filling = fillings.choose(filling, cache, self.prefix is not None)
        self.attention = attention.for_network(self.filling)
        self.adapters = AdapterSet(model)
        self.layouts = Layouts(block_size)
        self.static: StaticDecoder | None = None
        # Of a network whose prompts see themselves both ways: where tokens stand, and how much of them is the prompt.
        self.placed: Callable[[list[int]], tuple[int, list[list[int]]]] | None = getattr(model, "paged_positions", None)

    def use_static_decode(self, most_requests: int, most_blocks: int, capture: bool, compiled: bool) -> None:
        """From now on run decode steps with fixed shapes; see `StaticDecoder`.

        Raises:
            RequestError: the attention has no form for fixed shapes.
        """
        if self.filling.decode is None:
            raise RequestError(f"attention {self.filling.name!r} has no form for static_decode; choose another")
        forward: Callable[..., Tensor] = _compiled(self._network) if compiled else self._network
        record = CudaGraphs() if capture and self.device.type == "cuda" else None
        nothing = torch.zeros(0, dtype=torch.int32, device=self.device)
        batch = PagedBatch(self.cache, nothing, (), nothing, nothing, nothing, self.block_size, self.prefix)

        def run(ids: Tensor, positions: Tensor, batch: PagedBatch) -> Tensor:
            with self._paged_attention() as extra, _evaluating(self.model):
                return forward(ids, positions, batch, 0, extra)

        self.static = StaticDecoder(run, batch, most_requests, most_blocks, record, compiled)

    def check_prompt(self, request: Request) -> None:
        """Raise `RequestError` for what a network whose prompts see themselves both ways cannot take."""
        if self.placed is None:
            return
        if request.params.prompt_logprobs is not None:
            raise RequestError(
                "prompt_logprobs cannot be had of ChatGLM-6B: every token of its prompts has seen those that follow"
            )
        self.placed(request.prompt_ids)

    def on_device(self) -> AbstractContextManager[Any]:
        """Make the model's GPU the current one: where there are several, kernels and recordings need to be told."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def check_device(self) -> None:
        """Raise where the device itself no longer works, so that no other step would go better."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> list[list[Sampled]]:
        """One forward pass -> for each piece the tokens sampled after its last known token and after each draft."""
        rows = [self._rows(piece) for piece in pieces]
        flat = [row for piece_rows in rows for row in piece_rows]
        if self.decodes(pieces):
            logits = self.decode([piece.request for piece in pieces])
        else:
            logits = self._logits(pieces, rows)
        sampled = iter(self.sampler.sample(logits, flat) if flat else [])
        return [[next(sampled) for _ in piece_rows] for piece_rows in rows]

    @torch.inference_mode()
    def warm_up(self, blocks: BlockManager, lengths: Sequence[int]) -> None:
        """Run every size of decode step, and prompts of some lengths, for nobody: what is compiled, tuned or recorded
        when it first runs then is. Free blocks are used and given back; prompts that find none are left out."""
        if self.static is not None:
            self.static.warm_up()
        for length in lengths:
            nobody = Request([0] * length, SamplingParams(max_tokens=2, seed=0), frozenset())
            if blocks.num_free * blocks.block_size > length and blocks.extend(nobody, length):
                self.run([Piece(nobody, length)])
            blocks.free(nobody)

    def decodes(self, pieces: Sequence[Piece]) -> bool:
        """Whether a step is one for fixed shapes: one token for each request, no drafts, no adapters."""
        return self.static is not None and all(
            piece.num_tokens == 1 and piece.samples and piece.request.adapter is None for piece in pieces
        )

    @torch.inference_mode()
    def decode(self, requests: Sequence[Request], tokens: Tensor | None = None) -> Tensor:
        """Logits [n, vocab] after the last token of each request, valid until the next call.

        With `tokens` [n]: after those, which come next and are known only on the device. There must be room for them.
        """
        assert self.static is not None
        ahead = 0 if tokens is None else 1
        lengths = [len(request.token_ids) + ahead for request in requests]
        slots = [self.layouts.slots(r, length - 1, length)[0] for r, length in zip(requests, lengths, strict=True)]
        if tokens is None:
            tokens = on_device([request.token_ids[-1] for request in requests], torch.long, self.device)
        device_lengths = on_device(lengths, torch.int32, self.device)
        batch = PagedBatch(
            cache=self.cache,
            slots=on_device(slots, torch.long, self.device),
            sequences=(),
            block_tables=self._tables(requests),
            lengths=device_lengths,
            query_starts=self.static.starts[: len(requests) + 1],
            block_size=self.block_size,
        )
        return self.static.run(tokens, device_lengths - 1, batch)

    def _logits(self, pieces: Sequence[Piece], rows: Sequence[Sequence[Row]]) -> Tensor:
        """Logits [n, vocab] of the rows of all pieces.

        Short ways past the network's modules round in their own way and know no adapters. Where there are some,
        requests with adapters are run apart from the others, so that nobody's tokens depend on who else is there.
        """
        adapted = [piece.request.adapter is not None for piece in pieces]
        if len(set(adapted)) == 1 or not any("forward" in module.__dict__ for module in self.model.modules()):
            return self._part(pieces, rows)
        starts = list(accumulate(map(len, rows), initial=0))
        parts, order = [], list[int]()
        for kind in (False, True):
            which = [index for index, one in enumerate(adapted) if one is kind]
            logits = self._part([pieces[index] for index in which], [rows[index] for index in which]).float()
            parts += [logits] if any(rows[index] for index in which) else []
            order += (place for index in which for place in range(starts[index], starts[index + 1]))
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[on_device(back, torch.long, self.device)] if parts else logits

    def _part(self, pieces: Sequence[Piece], rows: Sequence[Sequence[Row]]) -> Tensor:
        kept = self._kept_positions(pieces, rows)
        wants_states = any(piece.states for piece in pieces)
        return self._logits_and_states(pieces, kept) if wants_states else self._forward(pieces, kept)

    def _forward(self, pieces: Sequence[Piece], kept: list[int]) -> Tensor:
        """Logits [kept, vocab]."""
        ids, positions, batch, adapters = self._inputs(pieces)
        short_way = None if any(adapters) else self._short_way
        if short_way is not None and (logits := short_way(ids, positions[0], kept, batch)) is not None:
            return logits  # type: ignore[no-any-return]
        ids_and_positions = on_device([ids, *positions], torch.long, self.device)
        with self._paged_attention() as extra, _evaluating(self.model), self.adapters.selected(adapters, kept):
            extra |= {"by_layer": True} if any(adapters) else {}
            return self._network(
                ids_and_positions[:1],
                _in_a_batch(ids_and_positions[1:]),
                batch,
                on_device(kept, torch.long, self.device),
                extra,
            )

    def _logits_and_states(self, pieces: Sequence[Piece], sampled: list[int]) -> Tensor:
        """Logits at the positions `sampled`; what else is wanted of the step goes to the purposes of its requests."""
        wanted, end = [], 0
        for piece in pieces:
            wanted.append([position + end - piece.request.num_computed for position in piece.states])
            end += piece.num_tokens
        states, head = self._states(pieces, [*chain.from_iterable(wanted), *sampled])
        judging: list[tuple[int, int, Purpose]] = []  # (which state, the token after it, for whom)
        first = 0
        for piece, positions in zip(pieces, wanted, strict=True):
            purpose, stop = piece.request.purpose, first + len(positions)
            if purpose is not None and purpose.pool is not None and positions:
                purpose.fresh = states[first:stop].float().sum(dim=0)
            elif purpose is not None and positions:
                purpose.fresh = []
                after = [piece.request.token_ids[position + 1] for position in piece.states]
                judging.extend(zip(range(first, stop), after, [purpose] * len(after), strict=True))
            first = stop
        for start in range(0, len(judging), AT_ONCE):
            self._judge(judging[start : start + AT_ONCE], head)
        return head(list(range(first, first + len(sampled)))) if sampled else states

    def _judge(self, judging: Sequence[tuple[int, int, Purpose]], head: Callable[[list[int]], Tensor]) -> None:
        logits = head([which for which, _, _ in judging])
        top = max(purpose.top for _, _, purpose in judging)
        items = judged(logits, [token for _, token, _ in judging], top, self.sampler.num_tokens)
        for (_, _, purpose), item in zip(judging, items, strict=True):
            purpose.fresh.append(item if purpose.top == top else replace(item, top=item.top[: purpose.top]))

    def _states(self, pieces: Sequence[Piece], kept: list[int]) -> tuple[Tensor, Callable[[list[int]], Tensor]]:
        """States [kept, hidden] after the final norm, and what gives logits [n, vocab] of n of them."""
        ids, positions, batch, adapters = self._inputs(pieces)
        short_way = None if any(adapters) else self._short_way
        if short_way is not None and (states := short_way.states(ids, positions[0], kept, batch)) is not None:
            return states, lambda which: short_way.logits(states[which])
        ids_and_positions = on_device([ids, *positions], torch.long, self.device)
        with self._paged_attention() as extra, _evaluating(self.model), self.adapters.selected(adapters):
            extra |= {"by_layer": True} if any(adapters) else {}
            outputs = self.model.base_model(
                input_ids=ids_and_positions[:1],
                position_ids=_in_a_batch(ids_and_positions[1:]),
                use_cache=False,
                paged=batch,
                **extra,
            )
        found = outputs.last_hidden_state[:, on_device(kept, torch.long, self.device)]  # [1, kept, hidden]

        def head(which: list[int]) -> Tensor:
            with _evaluating(self.model), self.adapters.selected(adapters, [kept[index] for index in which]):
                logits: Tensor = self.model.get_output_embeddings()(found[:, which])
            return logits[0]

        return found[0], head

    def _inputs(self, pieces: Sequence[Piece]) -> tuple[list[int], list[list[int]], PagedBatch, list[str | None]]:
        """Ids [N] and rows of positions [N] of a step, where its tokens lie, and the adapter of each."""
        ids = [token for piece in pieces for token in _piece_ids(piece)]
        parts = [self._positions(piece) for piece in pieces]
        positions = [list(chain.from_iterable(rows)) for rows in zip(*parts, strict=True)]
        adapters = [piece.request.adapter for piece in pieces for _ in range(piece.num_tokens)]
        return ids, positions, self._batch(pieces), adapters

    def _positions(self, piece: Piece) -> list[Sequence[int]]:
        """The rows of positions of a piece's tokens: one that counts them, unless the network knows better."""
        start = piece.request.num_computed
        stop = start + piece.num_tokens
        if self.placed is None:
            return [range(start, stop)]
        _, rows = self.placed([*piece.request.token_ids, *piece.request.draft_ids])
        return [row[start:stop] for row in rows]

    @property
    def _short_way(self) -> Any:
        """What `chatglm.quant.fused` puts on a model: it runs a step without the modules, or says that it cannot."""
        return self.model.__dict__.get("step_logits")

    def _network(
        self, ids: Tensor, positions: Tensor, batch: PagedBatch, kept: Tensor | int, extra: dict[str, Any]
    ) -> Tensor:
        """ids and positions [1, N] -> logits [kept, vocab]; `kept` 0: all N."""
        outputs = self.model(
            input_ids=ids,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=kept,
            paged=batch,
            return_dict=True,  # whatever the configuration says
            **extra,
        )
        logits: Tensor = outputs.logits[0]
        return logits

    @staticmethod
    def _rows(piece: Piece) -> list[Row]:
        if not piece.samples:
            return []
        request = piece.request
        if piece.num_drafts == 0:
            return [Row(request, request.token_ids)]
        return [
            Row(request, Context(request.token_ids, request.draft_ids, draft)) for draft in range(piece.num_drafts + 1)
        ]

    @staticmethod
    def _kept_positions(pieces: Sequence[Piece], rows: Sequence[Sequence[Row]]) -> list[int]:
        kept: list[int] = []
        end = 0
        for piece, piece_rows in zip(pieces, rows, strict=True):
            end += piece.num_tokens
            kept.extend(range(end - len(piece_rows), end))
        return kept

    def _batch(self, pieces: Sequence[Piece]) -> PagedBatch:
        sequences, slots, starts, lengths = [], [], [0], []
        for piece in pieces:
            request, start = piece.request, starts[-1]
            length = request.num_computed + piece.num_tokens
            slots.extend(self.layouts.slots(request, request.num_computed, length))
            context = 0 if self.placed is None else self.placed(request.prompt_ids)[0]
            sequences.append(PagedSequence(start, piece.num_tokens, self.layouts.runs(request, length), context))
            starts.append(start + piece.num_tokens)
            lengths.append(length)
        return PagedBatch(
            cache=self.cache,
            slots=on_device(slots, torch.long, self.device),
            sequences=sequences,
            block_tables=self._tables([piece.request for piece in pieces]),
            lengths=on_device(lengths, torch.int32, self.device),
            query_starts=on_device(starts, torch.int32, self.device),
            block_size=self.block_size,
            prefix=self.prefix,
        )

    def _tables(self, requests: Sequence[Request]) -> Tensor:
        tables = self.layouts.tables(requests)
        if self.device.type != "cuda":
            return tables
        return tables.contiguous().pin_memory().to(self.device, non_blocking=True)

    @contextmanager
    def _paged_attention(self) -> Iterator[dict[str, Any]]:
        """Have the network use our attention for one call -> arguments to pass.

        Our networks take it as an argument, so that other threads may use them in the meantime. Stock GLM looks it up
        by the name in its configuration, which is changed for the length of the call: there, nobody else may call it.
        """
        config = self.model.config
        if config.model_type == "chatglm":
            yield {"attention": self.attention}
            return
        before = config._attn_implementation
        config._attn_implementation = attention.name_for_network(self.filling)
        try:
            yield {}
        finally:
            config._attn_implementation = before


def _in_a_batch(positions: Tensor) -> Tensor:
    """[rows, N] -> [1, N] of one row, [1, rows, N] of several."""
    return positions if len(positions) == 1 else positions[None]


def _compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    compiled = torch.compile(forward, dynamic=False)

    def run(*arguments: Any) -> Tensor:
        # There are more batch sizes than torch compiles a function for by default.
        with torch._dynamo.config.patch(recompile_limit=64):
            return compiled(*arguments)

    return run


def _piece_ids(piece: Piece) -> list[int]:
    request, start = piece.request, piece.request.num_computed
    ids = request.token_ids[start : start + piece.num_tokens]
    return ids + request.draft_ids[: piece.num_drafts] if piece.num_drafts else ids


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
