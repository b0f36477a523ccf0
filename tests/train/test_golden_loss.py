"""The loss that is trained on against numbers recorded from the official code, rows apart and packed."""

from pathlib import Path

import pytest
import torch
from golden_data import golden_file
from safetensors.torch import load_file
from tiny_folders import base_folder

from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.train.encoding import Example
from chatglm.train.packing import Collator
from chatglm.train.trainer import token_losses


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_the_official_ones(packed: bool, tmp_path: Path) -> None:
    recorded = load_file(golden_file("numerics/h_loss_grads/io.safetensors"))
    model = ChatGLMForConditionalGeneration.from_pretrained(base_folder(tmp_path)).eval()
    examples = [
        Example(ids.tolist(), (labels >= 0).tolist())
        for ids, labels in zip(recorded["b.input_ids"], recorded["b.labels"], strict=True)
    ]
    # A first token has nothing before it that could predict it, in a row of its own as in a packed one.
    examples = [Example(one.ids, [False, *one.learned[1:]]) for one in examples]
    batch = Collator(packed=packed)([examples] if packed else [[example] for example in examples])
    loss = token_losses(model, batch).mean()
    torch.testing.assert_close(loss.reshape(1), recorded["plain.loss"], atol=3e-5, rtol=2e-5)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    compared = [name for name in recorded if name.startswith("plain.grad.")]
    assert len(compared) >= 8
    for name in compared:
        found = gradients[name.removeprefix("plain.grad.")]
        torch.testing.assert_close(found, recorded[name], atol=3e-5, rtol=2e-5, msg=name)
