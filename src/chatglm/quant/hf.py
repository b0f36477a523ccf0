"""The door to transformers: `from_pretrained` on an official INT8 / INT4 folder keeps the weights quantized in memory.

transformers offers one hook that may change the modules of an empty model before its weights are read: a quantizer.
Ours swaps the modules and then takes itself off again, so that `.half()`, `.float()`, `.to()` and saving keep working.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from chatglm.quant.linear import RowwiseLinear, quantize_empty
from chatglm.quant.rowwise import check_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "chatglm_rowwise"


@register_quantization_config(METHOD)
class RowwiseConfig(QuantizationConfigMixin):
    """Pass as `quantization_config=` to read a folder whose `config.json` has `quantization_bit` 4 or 8.

    It says how the file is stored; it never quantizes full weights. `scale_dtype` is that of the file's scales.
    """

    def __init__(self, bits: int, scale_dtype: torch.dtype = torch.float16, **_: Any) -> None:
        check_bits(bits)
        super().__init__(quant_method=METHOD)  # type: ignore[arg-type]
        self.bits = bits
        self.scale_dtype = scale_dtype


@register_quantizer(METHOD)
class RowwiseQuantizer(HfQuantizer):
    """Puts RowwiseLinear modules into the empty model, and leaves once the weights are in."""

    quantization_config: RowwiseConfig

    def _process_model_before_weight_loading(self, model: "PreTrainedModel", **_: Any) -> None:
        quantize_empty(model, self.quantization_config.bits, self.quantization_config.scale_dtype)

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **_: Any) -> "PreTrainedModel":
        for module in model.modules():
            if isinstance(module, RowwiseLinear):
                module.weight_scale.requires_grad_(False)
            if isinstance(getattr(module, "config", None), type(model.config)):
                module.config.__dict__.pop("_is_quantized", None)
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True
