"""Data of another project, where it stands beside the repository: states after the final norm, with a prefix too."""

import json

import golden_v1
import pytest
import torch
from safetensors.torch import load_file

from chatglm.model.v1.config import ChatGLM1Config
from chatglm.model.v1.network import ChatGLM1Model

FOLDER = golden_v1.FULL / "thirdparty"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the full golden data")
@pytest.mark.parametrize("name", ["glm_model", "glm_ptuning_v2_model"])
def test_recorded_states(name: str) -> None:
    tensors = load_file(FOLDER / f"{name}.safetensors")
    config = ChatGLM1Config(**json.loads((FOLDER / "glm_model.config.json").read_text()), dtype="float32")
    model = ChatGLM1Model(config).eval()
    weights = {key.removeprefix("transformer."): value for key, value in tensors.items() if key.startswith("transf")}
    assert not model.load_state_dict(weights, strict=False).missing_keys
    rows = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)[None, None]
    cache = None
    if (prefix := tensors.get("prefix.past_key_values")) is not None:
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache(config=config)
        for layer, (key, value) in enumerate(prefix.float()):
            cache.update(key[None], value[None], layer)
        rows = torch.nn.functional.pad(rows, (prefix.shape[3], 0))
    places = ([[0, 1, 1], [0, 0, 1]], [[1], [2]], [[1], [3]])
    with torch.no_grad():
        for number, position_ids in enumerate(places, 1):
            found = model(
                tensors[f"x{number}"].long(),
                attention_mask=rows if number == 1 else None,
                position_ids=torch.tensor([position_ids]),
                past_key_values=cache,
                use_cache=True,
            )
            cache = found.past_key_values
            torch.testing.assert_close(
                found.last_hidden_state.transpose(0, 1), tensors[f"y{number}"], atol=1e-4, rtol=1e-4
            )
