"""One of the processes that share a stock GLM folder; prints what it generates. Run by test_export_parallel.py."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig


def main(folder: str, ranks: int) -> None:
    options = {"distributed_config": DistributedConfig(tp_plan="auto", tp_size=ranks)} if ranks > 1 else {}
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    ids = torch.tensor([[5, 9, 200, 31, 4], [77, 8, 61, 3, 12]])
    with torch.no_grad():
        logits = model(ids).logits
    tokens = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    weight = model.model.layers[0].self_attn.q_proj.weight
    rows = weight.to_local().shape[0] if hasattr(weight, "to_local") else weight.shape[0]
    found = {"tokens": tokens.tolist(), "logits": logits[:, -1].tolist(), "rows": rows}
    print(json.dumps(found), flush=True)  # noqa: T201
    if ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
