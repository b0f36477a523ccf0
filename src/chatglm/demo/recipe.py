"""The numbers of the tiny model in one place: its shape, its seeds, how it is trained."""

from dataclasses import dataclass
from typing import Any

NAME = "tiny-glm"
SHAPE: dict[str, Any] = {
    "num_layers": 6,
    "hidden_size": 192,
    "ffn_hidden_size": 512,
    "num_attention_heads": 4,
    "kv_channels": 48,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "seq_length": 2048,
    "tie_word_embeddings": False,
}
VOCAB_MULTIPLE = 64  # the table of embeddings is padded to this
LONGEST_CONVERSATION = 1600  # tokens; the few longer ones are left out


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, beside the code itself."""

    seed: int = 1
    vocabulary_seed: int = 1
    batch_tokens: int = 2048  # per step, padding included
    pool: int = 512  # conversations sorted by length together
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
