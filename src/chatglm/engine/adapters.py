"""LoRA adapters beside the base weights, chosen per request, several in one batch (arXiv:2106.09685).

The base linears run once for the whole step; each adapter then adds (x A^T) B^T * scaling to the rows of its own
requests. It adds to a linear's output, so it does not matter how the linear stores its weight.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.errors import RequestError


@dataclass(frozen=True, slots=True)
class LowRank:
    """One linear's update: `down` [rank, in], `up` [out, rank], and the factor alpha / rank."""

    down: Tensor
    up: Tensor
    scaling: float


class _Step(threading.local):
    """What the step of this thread has selected. Other threads, which may use the network too, see the base."""

    def __init__(self) -> None:
        self.rows: list[tuple[slice, str]] = []
        self.kept: list[tuple[slice, str]] = []


def _joined(rows: Iterable[tuple[slice, str | None]]) -> list[tuple[slice, str]]:
    """Neighbours of one adapter are joined, rows of the base left out."""
    joined: list[tuple[slice, str]] = []
    for where, name in rows:
        if name is None:
            continue
        if joined and joined[-1][1] == name and joined[-1][0].stop == where.start:
            joined[-1] = (slice(joined[-1][0].start, where.stop), name)
        else:
            joined.append((where, name))
    return joined


def _joined_kept(rows: Sequence[tuple[slice, str]], kept: Sequence[int]) -> list[tuple[slice, str]]:
    """The same for a layer that sees the positions `kept` only."""
    names = ((at, next((name for where, name in rows if where.start <= position < where.stop), None))
             for at, position in enumerate(kept))  # fmt: skip
    return _joined((slice(at, at + 1), name) for at, name in names) if rows else []


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
        self._step = _Step()

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
                self._hooks[path] = module.register_forward_hook(self._hook(path))

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
    def selected(self, rows: Sequence[tuple[slice, str | None]], kept: Sequence[int] = ()) -> Iterator[None]:
        """For the length of a step of this thread, say which rows belong to which adapter; outside of it the network
        is the base. `kept` are the positions that reach the output layer."""
        self._step.rows = _joined(rows)
        self._step.kept = _joined_kept(self._step.rows, kept)
        try:
            yield
        finally:
            self._step.rows = self._step.kept = []

    def _hook(self, path: str) -> Any:
        of_output = path in self._output_paths

        def add_updates(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for where, name in self._step.kept if of_output else self._step.rows:
                update = self.weights[name].get(path)
                if update is not None:
                    low = nn.functional.linear(inputs[0][:, where].to(update.down.dtype), update.down)
                    added = nn.functional.linear(low, update.up) * update.scaling
                    output[:, where] += added.to(output.dtype)
            return output

        return add_updates

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
