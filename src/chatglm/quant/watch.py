"""Watch: whether modules are still what the kernels were told they are."""

from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from chatglm.quant.packed_weight import mark

Place = tuple[dict[str, Any], str, Any]  # what a dictionary holds under a name


class Watch:
    """Some modules as they are now.

    Args:
        modules: with all they hold; not those below them.
        tensors: what the kernels read, or have copies of.
        places: what else must stay as it is.
        replaced: those of the modules that have a `forward` of their own, known to the caller.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        tensors: Iterable[Tensor],
        places: Iterable[Place] = (),
        replaced: Sequence[nn.Module] = (),
    ) -> None:
        holders = [holder for m in modules for holder in (m._modules, m._parameters, m._buffers)]
        held = [*places, *((holder, name, value) for holder in holders for name, value in holder.items())]
        self._holders, self._names, self._values = zip(*held, strict=True)
        self._tensors = list(tensors)
        self._marks = [mark(tensor) for tensor in self._tensors]
        self._attributes = [module.__dict__ for module in modules if module not in replaced]
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]

    def unchanged(self) -> bool:
        """Whether nothing was replaced, moved or written."""
        found = map(dict.get, self._holders, self._names)
        return all(map(is_, found, self._values)) and self._marks == [mark(tensor) for tensor in self._tensors]

    def undisturbed(self) -> bool:
        """Whether nobody looks on by a hook, stands in with a `forward`, or wants a layer to be precise."""
        return not (
            (any(self._hooks) and not all(map(_idle, chain.from_iterable(map(dict.values, self._hooks)))))
            or any(map(dict.__contains__, self._attributes, repeat("forward")))
            or any(map(dict.get, self._attributes, repeat("precise")))
        )


def _idle(hook: Any) -> bool:
    """Whether a hook would do nothing now. Those of adapters can tell: in a step of base requests they are idle."""
    idle = getattr(hook, "idle", None)
    return idle is not None and bool(idle())


def hooks_so_far() -> int:
    """How many hooks torch has registered in this process, on whatever: where it is the same, none has come."""
    return RemovableHandle.next_id


def hooked_everywhere() -> bool:
    """Whether there is a forward hook for all modules."""
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)
