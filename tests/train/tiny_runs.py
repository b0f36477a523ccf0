"""A small base with its tokenizer, rows to learn, and runs on them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from golden_data import golden_file

from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.train.finetune import Result, finetune
from chatglm.train.settings import Settings

SHAPE: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "kv_channels": 16, "num_attention_heads": 4,
    "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True, "seq_length": 256,
}  # fmt: skip
ANSWERS = {"a": "one", "b": "two", "c": "three", "d": "four", "e": "five", "f": "six", "g": "seven", "h": "eight"}


def tiny_base(folder: Path) -> Path:
    """An official folder with random weights."""
    from chatglm.loading import load_tokenizer

    folder.mkdir(parents=True)
    shutil.copyfile(golden_file("tiny_tokenizer/tokenizer.model"), folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text('{"version": "chatglm3"}')
    torch.manual_seed(0)
    size = len(load_tokenizer(folder))
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**SHAPE, padded_vocab_size=size))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return folder


def write_rows(file: Path, answers: dict[str, str] = ANSWERS) -> Path:
    rows = [{"prompt": asked, "response": answer} for asked, answer in answers.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def settings(base: Path, data: Path, out: Path, **options: Any) -> Settings:
    given: dict[str, Any] = {
        "base": str(base), "data": str(data), "out": str(out), "device": "cpu", "batch_size": 8, "dropout": 0.0,
        "max_steps": 4, "log_steps": 1, "schedule": "constant",
    }  # fmt: skip
    return Settings(**{**given, **options})


def train(base: Path, data: Path, out: Path, resume: bool = False, **options: Any) -> Result:
    return finetune(settings(base, data, out, **options), resume=resume)
