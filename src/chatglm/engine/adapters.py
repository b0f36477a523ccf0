"""LoRA adapters beside the base weights, chosen per request, several in one batch (arXiv:2106.09685).

The base linears run once for the whole step; each adapter then adds (x A^T) B^T * scaling to the rows of its own
requests, all of them at once wherever they stand. It adds to a linear's output, so it does not matter how the linear
stores its weight.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.engine.warping import on_device
from chatglm.errors import RequestError


@dataclass(frozen=True, slots=True)
class LowRank:
    """One linear's update: `down` [rank, in], `up` [out, rank], and the factor alpha / rank."""

    down: Tensor
    up: Tensor
    scaling: float


Rows = dict[str, slice | Tensor]  # the positions of each adapter's tokens in a step: a stretch, or int64 [n]


class _Step(threading.local):
    """What the step of this thread has selected. Other threads, which may use the network too, see the base."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.kept: Rows = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies of a network are in nobody's step."""
        return _Step, ()


def _rows_of(names: Sequence[str | None], device: torch.device) -> Rows:
    """Where each adapter's positions are, wherever they stand; a stretch where they stand together."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name is not None:
            places.setdefault(name, []).append(place)
    return {
        name: slice(found[0], found[-1] + 1)
        if found[-1] - found[0] + 1 == len(found)
        else on_device(found, torch.long, device)
        for name, found in places.items()
    }


class _Hook:
    """Adds the updates of one linear to its output."""

    def __init__(self, adapters: "AdapterSet", path: str, of_output: bool) -> None:
        self.adapters, self.path, self.of_output = adapters, path, of_output

    def idle(self) -> bool:
        """Whether nothing would be added: short ways past the linear may then be taken (see `quant.watch`)."""
        return not self.adapters.step.rows

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        step = self.adapters.step
        for name, rows in (step.kept if self.of_output else step.rows).items():
            update = self.adapters.weights[name].get(self.path)
            if update is None:
                continue
            states = inputs[0][:, rows] if isinstance(rows, slice) else inputs[0].index_select(1, rows)
            low = nn.functional.linear(states.to(update.down.dtype), update.down)
            added = (nn.functional.linear(low, update.up) * update.scaling).to(output.dtype)
            if isinstance(rows, slice):
                output[:, rows] += added
            else:
                output.index_add_(1, rows, added)
        return output


class AdapterSet:
    """The adapters a network can answer with.

    Args:
        model: the network whose linears are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.weights: dict[str, dict[str, LowRank]] = {}
        self._hooks: dict[str, Any] = {}
        network: Any = model
        output_layer = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
        self._output_paths = {path for path, module in model.named_modules() if module is output_layer}
        self.step = _Step()

    def add(self, name: str, weights: Mapping[str, LowRank]) -> None:
        """Make an adapter known under `name`; `weights` by module path.

        Raises:
            RequestError: the name is taken, or a module or shape does not fit the network.
        """
        if name in self.weights:
            raise RequestError(f"an adapter named {name!r} is loaded already; remove it first or choose another name")
        for path, update in weights.items():
            self._check(path, update)
        reference = next(self.model.parameters())
        self.weights[name] = {
            path: LowRank(self._placed(update.down, reference), self._placed(update.up, reference), update.scaling)
            for path, update in weights.items()
        }
        for path in weights:
            if path not in self._hooks:
                module = self.model.get_submodule(path)
                self._hooks[path] = module.register_forward_hook(_Hook(self, path, path in self._output_paths))

    def remove(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            RequestError: there is none of that name.
        """
        self.require(name)
        del self.weights[name]
        needed = {path for weights in self.weights.values() for path in weights}
        for path in set(self._hooks) - needed:
            self._hooks.pop(path).remove()

    def require(self, name: str | None) -> None:
        if name is not None and name not in self.weights:
            known = ", ".join(sorted(self.weights)) or "none"
            raise RequestError(f"no adapter is named {name!r}; loaded are: {known}")

    @contextmanager
    def selected(self, names: Sequence[str | None], kept: Sequence[int] = ()) -> Iterator[None]:
        """For the length of a step of this thread, say which adapter each position belongs to, None to the base;
        outside of it the network is the base. `kept` are the positions that reach the output layer."""
        if any(names):
            device = next(self.model.parameters()).device
            self.step.rows = _rows_of(names, device)
            self.step.kept = _rows_of([names[position] for position in kept], device)
        try:
            yield
        finally:
            self.step.rows = self.step.kept = {}

    def _check(self, path: str, update: LowRank) -> None:
        try:
            module: Any = self.model.get_submodule(path)
        except AttributeError:
            raise RequestError(f"the adapter changes {path!r}, which this network does not have") from None
        if not hasattr(module, "in_features"):
            raise RequestError(f"the adapter changes {path!r}, a {type(module).__name__}; it must be a linear layer")
        found = [tuple(update.down.shape), tuple(update.up.shape)]
        rank = update.down.shape[0]
        right = [(rank, module.in_features), (module.out_features, rank)]
        if found != right:
            raise RequestError(f"the adapter's matrices for {path!r} have shapes {found}; they must be {right}")

    @staticmethod
    def _placed(tensor: Tensor, reference: Tensor) -> Tensor:
        dtype = reference.dtype if reference.is_floating_point() else torch.float32
        return tensor.detach().to(reference.device, dtype)
