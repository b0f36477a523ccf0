"""What transformers offers works on our classes: caches, attention names, compile, checkpointing, heads, embeddings."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_data import golden_file
from transformers import AutoModel, AutoModelForCausalLM, StaticCache

from chatglm.errors import ConfigError
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration, ChatGLMForSequenceClassification

FOLDER = golden_file("generation") / "model"
TINY = {
    "num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4,
    "padded_vocab_size": 64, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
    "seq_length": 128,
}  # fmt: skip


def tiny(seed: int = 0, **overrides: Any) -> ChatGLMForConditionalGeneration:
    torch.manual_seed(seed)
    return ChatGLMForConditionalGeneration(ChatGLMConfig(**(TINY | overrides))).eval()


@pytest.fixture(scope="module")
def model() -> ChatGLMForConditionalGeneration:
    return ChatGLMForConditionalGeneration.from_pretrained(FOLDER).eval()


def prompt(rows: int = 1, length: int = 9, vocab: int = 64) -> torch.Tensor:
    return torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(7))


def continuation(model: Any, ids: torch.Tensor, **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"cache_implementation": "dynamic"},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 4},
    ],
    ids=str,
)
def test_every_cache_gives_the_same_tokens(model: Any, options: dict[str, Any]) -> None:
    ids = prompt(1, vocab=1500)
    assert continuation(model, ids, **options) == continuation(model, ids)


def test_assisted_generation_is_exact(model: Any) -> None:
    ids = prompt(1, vocab=1500)
    assert continuation(model, ids, assistant_model=copy.deepcopy(model)) == continuation(model, ids)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch's flex attention
@pytest.mark.parametrize("name", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_attention_functions_agree_with_eager(name: str) -> None:
    ids, mask = prompt(2), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    with torch.no_grad():  # flex attention has no backward on CPU
        expected = tiny(attn_implementation="eager")(ids, attention_mask=mask).logits
        actual = tiny(attn_implementation=name)(ids, attention_mask=mask).logits
    torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_right_padding_changes_nothing_before_it() -> None:
    model, ids = tiny(), prompt(1)
    padded = torch.nn.functional.pad(ids, (0, 3))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, :9], model(ids).logits)


@pytest.mark.slow
def test_a_decode_step_compiles_into_one_graph() -> None:
    model, ids = tiny(), prompt(1)
    cache = StaticCache(config=model.config, max_cache_len=32)
    eager_cache = StaticCache(config=model.config, max_cache_len=32)
    with torch.no_grad():
        model(ids[:, :-1], past_key_values=cache)
        model(ids[:, :-1], past_key_values=eager_cache)
        step = torch.compile(model, fullgraph=True, backend="aot_eager")
        position_ids = torch.tensor([[8]])
        compiled = step(ids[:, -1:], past_key_values=cache, position_ids=position_ids).logits
        eager = model(ids[:, -1:], past_key_values=eager_cache, position_ids=position_ids).logits
    torch.testing.assert_close(compiled, eager)


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("overrides", [{}, {"pre_seq_len": 4}, {"pre_seq_len": 4, "prefix_projection": True}], ids=str)
def test_gradient_checkpointing_gives_the_same_gradients(overrides: dict[str, Any]) -> None:
    model, ids = tiny(**overrides), prompt(2)
    plain = gradients(model, ids)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    checkpointed = gradients(model, ids)
    assert checkpointed.keys() == plain.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(checkpointed[name], expected, msg=name)


@pytest.mark.parametrize("overrides", [{}, {"pre_seq_len": 4}], ids=str)
def test_generation_equals_recomputing_everything(overrides: dict[str, Any]) -> None:
    model, ids = tiny(**overrides), prompt(1)
    expected = ids
    for _ in range(12):
        best = model(expected, use_cache=False).logits[:, -1:].argmax(-1)
        expected = torch.cat((expected, best), dim=1)
    assert continuation(model, ids) == expected[:, 9:].tolist()
    assert continuation(model, ids, cache_implementation="static", disable_compile=True) == expected[:, 9:].tolist()


def test_embeddings_instead_of_ids() -> None:
    model, ids = tiny(), prompt(2)
    embeddings = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeddings).logits, model(ids).logits)
    with pytest.raises(ValueError, match="exactly one"):
        model(ids, inputs_embeds=embeddings)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])], ids=str)
def test_logits_to_keep(keep: Any) -> None:
    model, ids = tiny(), prompt(2)
    whole = model(ids).logits
    expected = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
    torch.testing.assert_close(model(ids, logits_to_keep=keep).logits, expected)


def test_hidden_states_and_attentions_are_handed_out() -> None:
    model, ids = tiny(attn_implementation="eager"), prompt(2)
    outputs = model(ids, output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, 9, 32)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 4, 9, 9)] * 2
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(2, 4, 9))
    as_tuple = model(ids, return_dict=False)
    torch.testing.assert_close(as_tuple[0], outputs.logits)


def test_resizing_the_vocabulary() -> None:
    model, ids = tiny(), prompt(1)
    before = model(ids).logits
    model.resize_token_embeddings(80)
    assert model.config.padded_vocab_size == 80
    torch.testing.assert_close(model(ids).logits[..., :64], before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", ["left", "right"])
def test_classification_pools_the_last_real_token(side: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = ChatGLMForSequenceClassification(ChatGLMConfig(**TINY, num_labels=3)).to(dtype).eval()
    ids, pads = prompt(1), (3, 0) if side == "left" else (0, 3)
    mask = torch.nn.functional.pad(torch.ones_like(ids), pads)
    positions = torch.nn.functional.pad(torch.arange(9)[None], pads)
    padded = torch.nn.functional.pad(ids, pads)
    expected = model(ids).logits
    for given in ({"attention_mask": mask}, {}):
        if side == "left" and not given:
            continue  # without a mask the pads would be attended to
        actual = model(padded, position_ids=positions, **given).logits
        torch.testing.assert_close(actual, expected, atol=2e-2 if dtype != torch.float32 else 1e-5, rtol=0)
    assert expected.dtype == dtype


def test_half_precision_keeps_exact_angles() -> None:
    """`.half()` must not round the rotary frequencies: far positions would turn by a wrong angle."""
    model = tiny()
    position_ids = torch.tensor([[100_000]])
    exact = model.transformer.rotary_pos_emb(position_ids, torch.float32)
    cast = model.half().transformer.rotary_pos_emb(position_ids, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(exact, cast, strict=True))


def test_float32_residual_stream_in_half_precision() -> None:
    """The official code fails there; the stream stays float32 and the result is closer to float32 than without it."""
    ids = prompt(1)
    exact = tiny().double()(ids).logits.float()
    errors = {
        wide: (tiny(fp32_residual_connection=wide).bfloat16()(ids).logits.float() - exact).abs().mean()
        for wide in (False, True)
    }
    assert errors[True] < errors[False]


LOADERS: list[Callable[..., Any]] = [AutoModel.from_pretrained, AutoModelForCausalLM.from_pretrained]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("trust", [True, False, None])
def test_auto_classes_give_our_class(load: Callable[..., Any], trust: bool | None) -> None:
    options = {} if trust is None else {"trust_remote_code": trust}
    assert type(load(FOLDER, **options)) is ChatGLMForConditionalGeneration


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("num_layers", "28", "whole number"),
        ("num_layers", 0, "at least 1"),
        ("rmsnorm", "yes", "true or false"),
        ("multi_query_group_num", 3, "multiple"),
        ("kv_channels", 6, "multiple of 4"),
        ("quantization_bit", 5, "one of"),
        ("pre_seq_len", -1, "at least 1"),
        ("rope_ratio", -2, "above 0"),
        ("rope_ratio_meaning", "scale", "one of"),
    ],
)
def test_bad_configurations_say_what_is_wrong(key: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as error:
        ChatGLMConfig(**(TINY | {key: value}))
    assert repr(value) in str(error.value) or f"={value}" in str(error.value)
