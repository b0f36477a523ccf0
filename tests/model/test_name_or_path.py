"""However a model is loaded, it says where from: adapters trained on it are found again by that name."""

from pathlib import Path

import pytest
import torch
from golden_data import golden_file

from chatglm.model.network import ChatGLMForConditionalGeneration


@pytest.mark.parametrize("dtype", [None, "auto", torch.float32, torch.bfloat16, "float16"])
@pytest.mark.parametrize("source", ["generation/model", "quantization/model_int4"])
def test_the_folder_is_remembered(dtype: object, source: str) -> None:
    folder: Path = golden_file(source)
    options = {} if dtype is None else {"dtype": dtype}
    model = ChatGLMForConditionalGeneration.from_pretrained(folder, **options)
    assert model.name_or_path == model.config.name_or_path == str(folder)
