"""A quantized model is the same before and after it has answered, whatever way it was loaded by."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import chatglm
from chatglm.demo import WEIGHTS

peft = pytest.importorskip("peft")
# transformers has changed the names; peft reads the old ones.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

QUESTION = "法国的首都是哪里？"
SCHEMES: list[int | str] = [4, 8, "int4", "int8"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(WEIGHTS)


def called(scheme: int | str, folder: Path) -> Any:
    return AutoModel.from_pretrained(WEIGHTS).quantize(scheme)


def loaded(scheme: int | str, folder: Path) -> Any:
    return chatglm.load(quantize=f"int{scheme}-rowwise" if isinstance(scheme, int) else scheme, device="cpu")[0]


def saved(scheme: int | str, folder: Path) -> Any:
    called(scheme, folder).save_pretrained(folder)
    return AutoModel.from_pretrained(folder)


def described(model: Any) -> tuple[list[str], dict[str, str]]:
    return list(model.state_dict()), {name: type(module).__name__ for name, module in model.named_modules()}


def answer(model: Any, tokenizer: Any) -> str:
    text: str = model.chat(tokenizer, QUESTION, do_sample=False, max_new_tokens=12)[0]
    return text


# That all ways give the same is seen below: each scheme and each way is here, with every other in the slow run.
HERE = [(called, 4), (saved, 8), (loaded, "int4"), (saved, "int4"), (called, "int8")]


@pytest.mark.parametrize(
    ("way", "scheme"),
    [
        pytest.param(way, scheme, marks=[pytest.mark.slow] * ((way, scheme) not in HERE))
        for way in (called, loaded, saved)
        for scheme in SCHEMES
    ],
)
def test_names_classes_and_peft(way: Any, scheme: int | str, tokenizer: Any, tmp_path: Path) -> None:
    model = way(scheme, tmp_path)
    before, state = described(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = copy.deepcopy(model)
    said = answer(model, tokenizer)
    for _ in model.stream_chat(tokenizer, QUESTION, do_sample=False, max_new_tokens=3):
        pass
    assert described(model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    fresh.load_state_dict(model.state_dict())
    assert answer(fresh, tokenizer) == said
    untouched = copy.deepcopy(fresh)
    for one in (fresh, untouched):
        adapted = peft.get_peft_model(one, peft.LoraConfig(target_modules=["query_key_value"]))
        assert answer(adapted, tokenizer) == said  # a new adapter changes nothing


def test_the_ways_agree(tokenizer: Any, tmp_path: Path) -> None:
    for scheme in SCHEMES:
        models = [way(scheme, tmp_path / str(scheme)) for way in (called, loaded, saved)]
        assert described(models[0]) == described(models[1]) == described(models[2])
        for name, tensor in models[0].state_dict().items():
            if "packed" in name:
                assert all(torch.equal(tensor, model.state_dict()[name]) for model in models), name
