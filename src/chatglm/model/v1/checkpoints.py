"""Official folders of the first generation: what `OfficialCheckpoints` must know of them besides names and shapes.

`lm_head` is the embedding: files hold both, and what they hold of the first is not read (so is the official code).
Rotary tables are computed. Official float16 files hold the norms in float32; a model keeps them so.
"""

from typing import Any

from torch import Tensor, nn

from chatglm.model.layout import AnyConfig
from chatglm.model.model_tensors import official_sources
from chatglm.model.pretrained import OfficialCheckpoints
from chatglm.model.saving import Source
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.layout import OUTPUT, computed_names, is_inv_freq, official_inv_freq
from chatglm.model.weights import WeightFolder


class FirstCheckpoints(OfficialCheckpoints):
    """Mixin over PreTrainedModel."""

    config: ChatGLM1Config

    @classmethod
    def _verify(cls, folder: Any, config: Any, kwargs: dict[str, Any]) -> WeightFolder:
        weights = super()._verify(folder, config, kwargs)
        tied = config.tie_word_embeddings
        left_out = {name for name in weights.tensors if is_inv_freq(name) or (tied and name == OUTPUT)}
        return weights.renamed({name: info.name for name, info in weights.tensors.items() if name not in left_out})

    @classmethod
    def _needs_sources(cls, weights: WeightFolder, config: AnyConfig, kwargs: dict[str, Any]) -> bool:
        return kwargs.get("device_map") is None

    @classmethod
    def _keep(cls, model: Any, weights: WeightFolder) -> None:
        """Norms that are stored in float32 beside half precision stay so."""
        for name, module in model.named_modules():
            stored = weights.tensors.get(f"{name}.weight")
            if isinstance(module, nn.LayerNorm) and stored is not None and stored.dtype.itemsize > _size(module):
                for part in ("weight", "bias"):
                    values = weights.read(f"{name}.{part}").to(module.weight.device)
                    setattr(module, part, nn.Parameter(values))

    def _official_sources(self, state_dict: dict[str, Tensor] | None) -> dict[str, Source]:
        table = official_inv_freq(self.config.rotary_dim).to(self.dtype)
        names = (name for name in computed_names(self.config) if is_inv_freq(name))
        return official_sources(self, state_dict, dict.fromkeys(names, table))


def _size(module: nn.Module) -> int:
    """Bytes of a number of a layer's weight."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.dtype.itemsize
