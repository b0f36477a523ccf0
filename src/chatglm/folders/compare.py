"""How the networks of some folders differ, row by row: `chatglm info --compare`, and the table of docs/models.md."""

from collections.abc import Sequence
from pathlib import Path

from chatglm.folders.describe import cache_bytes_per_token, describe, num_parameters
from chatglm.model.layout import AnyConfig
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.layers import ALPHA

_PROMPTS = {
    "ChatGLM-6B": "the text, [gMASK] <sop>; rounds from [Round 0]",
    "ChatGLM2": "[gMASK] sop, the text; rounds from [Round 1]",
    "ChatGLM3": "[gMASK] sop, messages with role tokens, tools and code",
}


def facts(config: AnyConfig, generation: str) -> dict[str, str]:
    """What a configuration says of a network, by row; `generation` begins with the name of a family member."""
    first = isinstance(config, ChatGLM1Config)
    prompt = next((text for name, text in _PROMPTS.items() if generation.startswith(name)), "not told by the folder")
    return {
        "vocabulary": f"{config.padded_vocab_size:,}",
        "positions": _positions(config),
        "attention": f"{config.num_attention_heads} heads, {config.num_key_value_heads} key/value heads; "
        + ("the prompt sees itself both ways" if first else "causal"),
        "activation": f"{'GELU' if first else 'SwiGLU'}, {config.ffn_hidden_size:,} wide",
        "norm": f"LayerNorm; residual: the normed value times {ALPHA:.2f}" if first else "RMSNorm; plain residual",
        "output layer": "the embedding" if config.tie_word_embeddings else "of its own",
        "context": f"{config.seq_length:,} tokens",
        "prompt": prompt,
        "parameters": f"{num_parameters(config):,}",
        "cache": f"{cache_bytes_per_token(config):,} bytes a token (16 bits)",
    }


def compare_text(models: Sequence[str | Path], *, hub: str | None = None) -> str:
    """The facts of some models side by side, as aligned lines; rows that differ are marked with `*`.

    Raises:
        HubError, CheckpointError: as for `describe`.
    """
    infos = [describe(model, hub=hub) for model in models]
    columns = [facts(info.config, info.generation) for info in infos]
    rows = [("", *(info.variant for info in infos)), ("", *(str(info.folder.name) for info in infos))]
    for name in columns[0]:
        cells = [column[name] for column in columns]
        rows.append((f"{'*' if len(set(cells)) > 1 else ' '} {name}", *cells))
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _positions(config: AnyConfig) -> str:
    assert config.kv_channels is not None
    if not isinstance(config, ChatGLM1Config):
        return f"one row; {config.rotary_dim} of {config.kv_channels} channels, in pairs side by side; one table"
    rows = "two rows, prompt and answer" if config.position_encoding_2d else "one row"
    return f"{rows}; all {config.kv_channels} channels, in halves; a table for each layer"
