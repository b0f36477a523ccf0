"""From token ids to logits without a module in between, where a model's layers run in one native call.

A step of one token is a tenth of a second of kernels that read all weights. What runs between them finds neither its
code nor its data in the processor's caches any more, and takes five times as long as a stopwatch around it alone would
say: so there should be little of it.
"""

from typing import Any

import torch
from torch import Tensor

from chatglm import native
from chatglm.quant.fused_layers import FusedForward, as_native
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.packed_weight import PackedWeight
from chatglm.quant.watch import Watch, hooked_everywhere, hooks_so_far

NAME = "step_logits"  # the attribute by which the engine finds it


class FusedNetwork:
    """The forward pass of an engine's step.

    It looks at what lies around the layers and, while answers go on token by token, at one layer in turn; at all of
    them in every other step. So a model that is moved or converted is noticed at once, a single layer that is replaced
    in the middle of an answer after so many tokens as there are layers.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._watch: Watch | None = None
        self._following: list[int] = []  # the positions of the next step, if answers just go on
        self._hooks = -1
        self._steps = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedNetwork":
        return FusedNetwork(memo.get(id(self.model), self.model))

    def __reduce__(self) -> Any:
        return FusedNetwork, (self.model,)

    def __call__(self, ids: list[int], positions: list[int], kept: list[int], paged: Any) -> Tensor | None:
        """Logits [kept, vocab] of a step of N tokens at the indices `kept`; None where the modules have to run."""
        states = self.states(ids, positions, kept, paged)
        return None if states is None else self.logits(states)

    def states(self, ids: list[int], positions: list[int], kept: list[int], paged: Any) -> Tensor | None:
        """The same before the head: float32 [kept, hidden] after the final norm."""
        going_on = positions == self._following and hooks_so_far() == self._hooks
        self._following = []
        self._steps += 1
        caches = self._ready(paged, self._steps if going_on else None)
        if caches is None or not self._has(ids):
            return None
        stream = self._embedded(ids)
        self._stack.run(stream, *self._angles(positions), paged, caches)
        self._following, self._hooks = [position + 1 for position in positions], hooks_so_far()
        return self._normed(stream if kept == list(range(len(ids))) else stream[kept])

    def logits(self, states: Tensor) -> Tensor:
        """What `states` has given, or some rows of it -> [n, vocab]."""
        if self._output is not None:
            return native.linear(self._output, states)
        logits: Tensor = self._head(states.to(self._dtype))
        return logits

    def _ready(self, paged: Any, turn: int | None) -> native.Caches | None:
        if self._watch is None or not self._watch.unchanged():
            if not network_fits(self.model):
                return None
            self._build()
            turn = None
        assert self._watch is not None
        if not self._watch.undisturbed() or (turn is None and hooked_everywhere()):
            return None
        return self._stack.ready(paged, turn)

    def _has(self, ids: list[int]) -> bool:
        """Whether the embedding has rows for them; where not, its module says so."""
        return min(ids) >= 0 and max(ids) < self._num_rows

    def _build(self) -> None:
        inner = self.model.transformer
        self._embedding, self._head = inner.embedding.word_embeddings, inner.output_layer
        self._num_rows: int = self._embedding.num_embeddings
        self._stack: FusedForward = inner.encoder.__dict__["forward"]
        norm = getattr(inner.encoder, "final_layernorm", None)
        self._norm = None if norm is None else (norm.weight.detach().float(), norm.eps)
        self._table = as_native(self._embedding) if isinstance(self._embedding, PackedEmbedding) else None
        self._output = as_native(self._head) if isinstance(self._head, PackedLinear) else None
        self._tables = torch.empty(0, 0), torch.empty(0, 0)
        self._dtype = self.model.dtype if norm is None else norm.weight.dtype
        self._watch = self._watching()

    def _watching(self) -> Watch:
        inner = self.model.transformer
        encoder, rotary = inner.encoder, inner.rotary_pos_emb
        norms = [encoder.final_layernorm] if self._norm is not None else []
        modules = [self.model, inner, inner.embedding, self._embedding, rotary, encoder, *norms, self._head]
        packed = [one for one in (self._embedding, self._head) if isinstance(one, PackedWeight)]
        tensors = [tensor for one in packed for tensor in (*one.buffers(), *one.parameters())]
        settings = [(rotary.__dict__, name, value) for name, value in vars(rotary).items()]
        places = [(encoder.__dict__, "forward", self._stack), *settings]
        return Watch(modules, [*tensors, *(norm.weight for norm in norms)], places, replaced=[encoder])

    def _embedded(self, ids: list[int]) -> Tensor:
        """-> float32 [N, hidden], a new tensor."""
        indices = torch.tensor(ids)
        if self._table is not None:
            return native.gather(self._table, indices)
        rows: Tensor = self._embedding(indices)
        return rows.to(torch.float32, copy=True)

    def _angles(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines [N, rotary_dim / 2], from tables that grow."""
        cosines, sines = self._tables
        if max(positions) >= len(cosines):
            self._tables = cosines, sines = self._tabulated(max(positions) + 1)
        first, count = positions[0], len(positions)
        if count == 1 or positions == list(range(first, first + count)):
            return cosines.narrow(0, first, count), sines.narrow(0, first, count)
        rows = torch.tensor(positions)
        return cosines.index_select(0, rows), sines.index_select(0, rows)

    def _tabulated(self, least: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(max(_LEAST_POSITIONS, 1 << (least - 1).bit_length()))
        cosines, sines = self.model.transformer.rotary_pos_emb(positions[None], self.model.dtype)
        return cosines[0, 0].float(), sines[0, 0].float()

    def _normed(self, stream: Tensor) -> Tensor:
        """[n, hidden] after the layers, which is overwritten -> after the final norm."""
        if self._norm is not None:
            weight, eps = self._norm
            scale = stream.square().mean(dim=1, keepdim=True).add_(eps).rsqrt_()
            stream.mul_(scale).mul_(weight)
        return stream


_LEAST_POSITIONS = 2048


def network_fits(model: Any) -> bool:
    """Whether this is the network of the language model, with code of its own and a fused stack of layers."""
    inner: Any = getattr(model, "transformer", None)
    if not all(hasattr(inner, name) for name in ("embedding", "rotary_pos_emb", "encoder", "output_layer")):
        return False
    encoder, head = inner.encoder, inner.output_layer
    if not isinstance(encoder.__dict__.get("forward"), FusedForward) or inner.prefix_encoder is not None:
        return False
    norms = [encoder.final_layernorm] if encoder.post_layer_norm else []
    around = [inner.embedding, *norms, head]
    if not all(tensor.is_cpu for one in around for tensor in (*one.parameters(), *one.buffers())):
        return False
    own = [model, inner, inner.embedding, inner.rotary_pos_emb, *norms]
    return all(type(module).forward.__module__.startswith(_HOME) for module in own)


_HOME = "chatglm.model."  # a subclass may have overridden the forward pass: that is then what runs
