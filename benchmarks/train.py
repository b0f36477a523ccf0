"""Training speed: this package against peft and Trainer on stock GlmForCausalLM, on the same rows in the same run.

    python benchmarks/train.py [--model FOLDER] [--rows 96] [--steps 12] [--rounds 3]

Short conversations, LoRA on the attention projections, the same batch size, optimizer and dtype. Counted are tokens of
conversations, without padding, for each second of processor time: what else a machine does then matters little. The
rounds alternate, and the best of each counts.
"""

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from chatglm.folders.convert import convert
from chatglm.loading import demo_folder, load, load_tokenizer
from chatglm.quant.fused import unfuse
from chatglm.train import methods
from chatglm.train.encoding import Report, read_examples
from chatglm.train.finetune import _arguments
from chatglm.train.packing import Collator, PackedRows, Rows
from chatglm.train.settings import Settings
from chatglm.train.store import Store
from chatglm.train.trainer import AnswerTrainer

QUESTIONS = (
    "你好",
    "Who are you?",
    "What colour is the sky?",
    "法国的首都是哪里？",
    "Tell me a joke.",
    "My name is Tom.",
)


def rows(file: Path, count: int) -> Path:
    """Conversations of one to four short turns."""
    rng = random.Random(0)
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            turns = []
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                turns.append({"role": "user", "content": rng.choice(QUESTIONS)})
                turns.append(
                    {"role": "assistant", "content": " ".join(rng.choices(QUESTIONS, k=rng.choice((1, 2, 6))))}
                )
            stream.write(json.dumps({"conversations": turns}, ensure_ascii=False) + "\n")
    return file


def ours(settings: Settings, base: Path, store: Store, packed: bool, out: Path) -> Trainer:
    model, _ = load(base, dtype=torch.float32, device="cpu", cache=False)
    unfuse(model)
    data = PackedRows(store, settings.max_length, 0) if packed else Rows(store)
    return AnswerTrainer(
        settings, out, model=methods.prepare(model, settings), args=_arguments(settings, out, False),
        data_collator=Collator(packed), train_dataset=data,
    )  # fmt: skip


def stock(settings: Settings, base: Path, store: Store, out: Path) -> Trainer:
    """As people train GLM today: labels go to the model, rows are padded."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    targets = ["q_proj", "k_proj", "v_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=settings.rank, lora_alpha=settings.alpha, target_modules=targets)
    plain = Collator(packed=False)

    def collate(found: Any) -> dict[str, Any]:
        batch = plain(found)
        return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    given = {"output_dir": str(out), "max_steps": settings.max_steps, "save_strategy": "no", "report_to": []}
    options = {"per_device_train_batch_size": settings.batch_size, "remove_unused_columns": False, "use_cpu": True}
    arguments = TrainingArguments(**given, **options, disable_tqdm=True, logging_steps=1000, seed=42, log_level="error")
    return Trainer(
        model=get_peft_model(model, config), args=arguments, data_collator=collate, train_dataset=Rows(store)
    )


def speed(trainer: Trainer) -> float:
    """Real tokens for a second of processor time, without padding."""
    seen = 0
    collate = trainer.data_collator

    def counting(found: Any) -> Any:
        nonlocal seen
        seen += sum(len(example.ids) for row in found for example in row)
        return collate(found)

    trainer.data_collator = counting
    began = time.process_time()
    trainer.train()
    taken = time.process_time() - began
    trainer.data_collator = collate
    return seen / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_folder())
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp())
    settings = Settings(
        data="", out=str(folder), max_steps=options.steps, batch_size=options.batch_size, dropout=0.0, device="cpu",
        max_length=512, log_steps=10**6, trainer={"save_strategy": "no"},
    )  # fmt: skip
    found = read_examples(str(rows(folder / "rows.jsonl", options.rows)), load_tokenizer(options.model), 512, Report())
    store = Store(found, folder)
    glm = convert(options.model, folder / "glm", to="glm")
    kinds = {
        "stock GLM, peft and Trainer": lambda out: stock(settings, glm, store, out),
        "chatglm finetune": lambda out: ours(settings, options.model, store, False, out),
        "chatglm finetune --packing": lambda out: ours(settings, options.model, store, True, out),
    }
    best = dict.fromkeys(kinds, 0.0)
    for number in range(options.rounds):
        for name, make in kinds.items():
            best[name] = max(best[name], speed(make(folder / f"{number}{len(name)}")))
            print(f"{name}: {best[name]:,.0f} tokens a CPU second", file=sys.stderr)
    first = next(iter(best.values()))
    mean = store.num_tokens / len(store)
    print(f"{len(store)} rows, {mean:.0f} tokens on average; batch {options.batch_size}, {options.threads} threads\n")
    print("| what | tokens a CPU second | against stock |\n|---|---|---|")
    for name, value in best.items():
        print(f"| {name} | {value:,.0f} | {value / first:.2f} |")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
