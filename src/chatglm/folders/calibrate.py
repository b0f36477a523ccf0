"""Calibrating a folder that is not in memory: the network is empty, and each layer gets its weights in its turn.

Memory holds the embedding, the inputs of one layer for all sequences, and one layer in float32.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from chatglm.errors import ConfigError
from chatglm.loading import parse_device
from chatglm.model.checkpoint import stored_tensors, verify_folder
from chatglm.model.config import ChatGLMConfig
from chatglm.model.layout import EMBEDDING, FINAL_NORM
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.quant.calibrate import Calibration, calibrate_layers, cut
from chatglm.quant.rounding import Method, Numbers
from chatglm.quant.scheme import QuantScheme


class CalibratedFolder:
    """Gives what every linear layer becomes, working through the layers once, as far as it is asked.

    Args:
        finish: makes the tensors to write of a layer's name and rounded numbers.
        text: what to calibrate on: `sequences` pieces of `length` tokens, each behind `[gMASK] sop`.

    Raises:
        ConfigError: no text, or too little; a device that is not here.
    """

    def __init__(
        self,
        folder: Path,
        config: ChatGLMConfig,
        scheme: QuantScheme,
        method: Method,
        text: str | None,
        sequences: int,
        length: int,
        device: str,
        finish: Callable[[str, Numbers], dict[str, Tensor]],
    ) -> None:
        if text is None or method != "gptq":
            raise ConfigError(f"method {method!r} with{'out' if text is None else ''} text; calibrating is for 'gptq'")
        self.device = parse_device(device)
        self.tensors = stored_tensors(verify_folder(folder, config))
        tokenizer: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(folder)
        ids = tokenizer.encode_text(text, plain=True)
        self.sequences = cut(ids, length, sequences, tokenizer.get_prefix_tokens())
        self.model = _empty(config)
        self.scheme, self.finish = scheme, finish
        self.held: dict[str, dict[str, Tensor]] = {}
        self.found: Iterator[tuple[str, Numbers]] | None = None

    def parts(self, layer: str) -> dict[str, Tensor]:
        """What one linear layer becomes; those made on the way wait for their turn."""
        if self.found is None:
            self.found = self._begin()
        while layer not in self.held:
            name, numbers = next(self.found)
            self.held[name] = self.finish(name, numbers)
        return self.held.pop(layer)

    def _begin(self) -> Iterator[tuple[str, Numbers]]:
        for name in (EMBEDDING, f"{FINAL_NORM}.weight"):
            if name in self.tensors:
                owner = name.removesuffix(".weight")
                self._load(owner, self.model.get_submodule(owner))
        calibration = Calibration(
            "gptq", scale_dtype=self.tensors[EMBEDDING].dtype, load=self._load, unload=self._unload
        )
        return calibrate_layers(self.model, self.sequences, self.scheme, calibration)

    def _load(self, name: str, module: nn.Module) -> None:
        """Give a part of the network its weights."""
        state = {key: self.tensors[f"{name}.{key}"].read() for key in module.state_dict()}
        module.load_state_dict({key: tensor.float().to(self.device) for key, tensor in state.items()}, assign=True)

    def _unload(self, name: str, module: nn.Module) -> None:
        module.to("meta")


def _empty(config: ChatGLMConfig) -> nn.Module:
    from chatglm.model.network import ChatGLMForConditionalGeneration

    with torch.device("meta"):
        model: nn.Module = ChatGLMForConditionalGeneration(config)
    return model.eval().float()
