"""Rows in every spelling, a LoRA adapter trained on all of them together, and the adapter loaded.

Needs `pip install '.[finetune]'`. More steps, and data of your own, are what it takes to learn something.
"""

import tempfile
from pathlib import Path

import torch

import chatglm
from chatglm.train.finetune import finetune
from chatglm.train.formats import format_of
from chatglm.train.rows import read_rows
from chatglm.train.settings import Settings

data = Path(__file__).with_name("finetune")  # a file, or a folder of them
for row in read_rows(data):
    print(f"{row.file.name:22} line {row.number}: {format_of(row.value)}")

torch.set_num_threads(1)  # the embedded model is too small to share
with tempfile.TemporaryDirectory() as out:
    result = finetune(Settings(data=str(data), out=out, method="lora", max_steps=6, log_steps=2, device="cpu"))
    model, tokenizer = chatglm.load(out)  # the base is found by the adapter
    print(f"{result.steps} steps; asked who it is, it says:")
    print(model.chat(tokenizer, "Who are you?", do_sample=False, max_new_tokens=20)[0])
