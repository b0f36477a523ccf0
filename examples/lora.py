"""A LoRA adapter trained with peft, saved, found again by its folder alone, and merged.

Needs `pip install '.[peft]'`.
"""

import tempfile

import torch
from peft import LoraConfig, get_peft_model

import chatglm

model, tokenizer = chatglm.load(dtype=torch.float32)
turns = [
    chatglm.Message("user", "What is the password?"),
    chatglm.Message("assistant", "The password is tiny."),
    chatglm.Message("user", "Thanks!"),  # the role after an answer is what ends it, so it is learned too
]
rendered = tokenizer.render(turns, add_generation_prompt=False)
ids, wanted = torch.tensor([rendered.ids]), torch.tensor([rendered.loss_mask])
labels = ids.masked_fill(~wanted, -100)

wrapped = get_peft_model(model, LoraConfig(target_modules=["query_key_value"], r=8, lora_alpha=32))
optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=3e-3)
for _ in range(60):
    loss = wrapped(input_ids=ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss {loss.item():.3f}")
with tempfile.TemporaryDirectory() as folder:
    wrapped.save_pretrained(folder)
    for merge in (False, True):
        tuned, tokenizer = chatglm.load(folder, merge_adapter=merge)
        print(tuned.chat(tokenizer, "What is the password?", do_sample=False, max_new_tokens=20)[0])
