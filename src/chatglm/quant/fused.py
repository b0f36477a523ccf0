"""Puts the kernels' short ways on a model from outside, and takes them off again."""

from torch import nn

from chatglm import native
from chatglm.quant.fused_layers import FusedForward, linears_of, stack_fits
from chatglm.quant.fused_network import NAME, FusedNetwork, network_fits

__all__ = ["FusedForward", "FusedNetwork", "fuse", "linears_of", "unfuse"]


def fuse(model: nn.Module) -> bool:
    """Have the stack of decoder layers run in one native call, and the network around it in a few more, where it can
    -> whether the stack could. Idempotent."""
    if not native.available():
        return False
    stacks = [module for module in model.modules() if stack_fits(module)]
    for stack in stacks:
        if not isinstance(stack.__dict__.get("forward"), FusedForward):
            stack.__dict__["forward"] = FusedForward(stack)
    for network in (module for module in model.modules() if network_fits(module)):
        network.__dict__.setdefault(NAME, FusedNetwork(network))
    return bool(stacks)


def unfuse(model: nn.Module) -> None:
    """Take it all off again."""
    for module in model.modules():
        module.__dict__.pop(NAME, None)
        if isinstance(module.__dict__.get("forward"), FusedForward):
            del module.__dict__["forward"]
