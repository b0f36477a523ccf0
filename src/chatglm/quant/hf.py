"""The door to transformers: `from_pretrained` on a quantized folder keeps the weights quantized in memory.

Two formats: the official row-wise INT8 / INT4 files, and packed folders, whose `config.json` holds a scheme.

transformers offers one hook that may change the modules of an empty model before its weights are read: a quantizer.
Ours swaps the modules and then takes itself off again, so that `.half()`, `.float()`, `.to()` and saving keep working.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from chatglm.quant.model import METHOD as PACKED_METHOD
from chatglm.quant.model import empty_rowwise, pack_rowwise, quantize_empty_model, record
from chatglm.quant.packed import PackedLinear
from chatglm.quant.packed_embedding import PackedEmbedding
from chatglm.quant.parts import Announced, Progress, quantized_tensors
from chatglm.quant.rowwise import check_bits
from chatglm.quant.scheme import QuantScheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METHOD = "chatglm_rowwise"


class _Leaving(HfQuantizer):
    """Takes itself off the model once the weights are in."""

    def leave(self, model: "PreTrainedModel") -> None:
        for module in model.modules():
            if isinstance(getattr(module, "config", None), type(model.config)):
                module.config.__dict__.pop("_is_quantized", None)
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


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
class RowwiseQuantizer(_Leaving):
    """Puts layers of official storage into the empty model; packs them and leaves once the weights are in."""

    quantization_config: RowwiseConfig

    def _process_model_before_weight_loading(self, model: "PreTrainedModel", **_: Any) -> None:
        empty_rowwise(model, self.quantization_config.bits, self.quantization_config.scale_dtype)

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **_: Any) -> "PreTrainedModel":
        pack_rowwise(model)
        self.leave(model)
        return model


@register_quantization_config(PACKED_METHOD)
class PackedConfig(QuantizationConfigMixin):
    """The `quantization_config` of a packed folder. Given with a folder of full weights, these are quantized as they
    are read: memory holds the result and one full matrix.

    Args:
        scheme: a QuantScheme, its name or its dict.
        progress: called after each matrix that was quantized.
        stored_dtype: of the full weights, where it is known: official files hold their scales in it.
    """

    def __init__(
        self,
        scheme: QuantScheme | str | int | dict[str, Any],
        *,
        progress: Progress | None = None,
        stored_dtype: torch.dtype | None = None,
        **_: Any,
    ) -> None:
        super().__init__(quant_method=PACKED_METHOD)  # type: ignore[arg-type]
        self.scheme = QuantScheme.from_dict(scheme) if isinstance(scheme, dict) else QuantScheme.parse(scheme)
        self.progress = progress
        self.stored_dtype = stored_dtype

    def smaller(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        stored_dtype: torch.dtype,
        tied: bool,
        read: Callable[[str], Tensor],
    ) -> dict[str, dict[str, Announced]]:
        """What the full weights of a folder become; see `quantized_tensors`. `tied`: head and embedding are one."""
        self.stored_dtype = stored_dtype
        scheme = self.scheme.without_ends() if tied else self.scheme
        return quantized_tensors(shapes, scheme, read, self.progress)

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": PACKED_METHOD, "scheme": self.scheme.to_dict()}


@register_quantizer(PACKED_METHOD)
class PackedQuantizer(_Leaving):
    """Puts packed layers into the empty model, and leaves once the weights are in."""

    quantization_config: PackedConfig

    def _process_model_before_weight_loading(self, model: "PreTrainedModel", **_: Any) -> None:
        quantize_empty_model(model, self.quantization_config.scheme)

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **_: Any) -> "PreTrainedModel":
        for module in model.modules():
            if isinstance(module, (PackedLinear, PackedEmbedding)):
                module.check()
            if isinstance(module, PackedLinear) and self.quantization_config.stored_dtype is not None:
                module.scale_dtype = self.quantization_config.stored_dtype
        self.leave(model)
        record(model, self.quantization_config.scheme)
        return model
