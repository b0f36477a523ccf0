"""GGUF files: what the reader of the format finds in them, and (slow) what llama.cpp makes of them."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_data import REAL_TOKENIZER, golden_file
from torch import Tensor

import chatglm
from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import stream
from chatglm.errors import CheckpointError, ConfigError
from chatglm.folders.gguf import DTYPES, to_gguf
from chatglm.folders.quantize import quantize_folder
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.model.packing import split_rows
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.quant.model import quantize_rowwise

gguf = pytest.importorskip("gguf")

SMALL: dict[str, Any] = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "kv_channels": 16, "num_attention_heads": 4,
    "padded_vocab_size": 1536, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
    "seq_length": 512, "name_or_path": "chatglm3-small",
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one group": {"multi_query_group_num": 1},
    "heads apart": {"multi_query_attention": False},
    "other base": {"rope_ratio": 50, "rope_ratio_meaning": "base"},
    "divided positions": {"rope_ratio": 4, "rope_ratio_meaning": "position"},
    "no bias": {"add_qkv_bias": False},
}


def write_small(folder: Path, tokenizer: Path | None = None, seed: int = 0, **options: Any) -> Any:
    """A random model as an official folder, lively enough to say different things."""
    torch.manual_seed(seed)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**(SMALL | options)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer = tokenizer or golden_file("tiny_tokenizer/tokenizer.model")
    (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    position = options.get("rope_ratio_meaning") == "position"
    settings = {"tokenizer_class": "ChatGLMTokenizer", "name_or_path": "chatglm2" if position else "chatglm3"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model.eval()


def read_values(reader: Any) -> dict[str, Tensor]:
    """Every tensor of a file, dequantized to float32."""
    return {
        tensor.name: torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in reader.tensors
    }


def setting(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_tensor_is_there(dtype: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = to_gguf(WEIGHTS, tmp_path / "new" / "tiny.gguf", dtype=dtype, progress=lambda *step: seen.append(step))
    assert [path.name for path in file.parent.iterdir()] == ["tiny.gguf"]
    model: Any = ChatGLMForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32)
    state, found = model.state_dict(), read_values(gguf.GGUFReader(file))
    assert len(found) == len(state) == seen[-1][0] == seen[-1][1]
    names = {
        "token_embd.weight": "embedding.word_embeddings.weight",
        "output.weight": "output_layer.weight",
        "output_norm.weight": "encoder.final_layernorm.weight",
        "blk.0.attn_norm.weight": "encoder.layers.0.input_layernorm.weight",
        "blk.1.attn_qkv.weight": "encoder.layers.1.self_attention.query_key_value.weight",
        "blk.2.attn_qkv.bias": "encoder.layers.2.self_attention.query_key_value.bias",
        "blk.3.attn_output.weight": "encoder.layers.3.self_attention.dense.weight",
        "blk.4.ffn_norm.weight": "encoder.layers.4.post_attention_layernorm.weight",
        "blk.5.ffn_up.weight": "encoder.layers.5.mlp.dense_h_to_4h.weight",
        "blk.0.ffn_down.weight": "encoder.layers.0.mlp.dense_4h_to_h.weight",
    }
    for name, official in names.items():
        expected = state[f"transformer.{official}"]
        assert found[name].shape == expected.shape
        exact = expected.dim() == 1 or dtype in ("f32", "bf16")  # the folder holds bfloat16
        step = {"f16": 1e-3, "q8_0": 5e-3, "q4_0": 0.13}.get(dtype, 0)  # q4_0 cuts the extreme of one side off
        limit = 0.0 if exact else step * float(expected.abs().max())
        assert ((found[name] - expected).abs() <= limit).all(), name


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_quantized_types(dtype: str, tmp_path: Path) -> None:
    reader = gguf.GGUFReader(to_gguf(WEIGHTS, tmp_path / "tiny.gguf", dtype=dtype))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == types["output.weight"] == "Q8_0"
    assert types["blk.0.ffn_up.weight"] == dtype.upper()
    assert types["blk.0.attn_norm.weight"] == types["blk.0.attn_qkv.bias"] == "F32"
    assert setting(reader, "general.file_type") == {"q8_0": 7, "q4_0": 2}[dtype]
    assert setting(reader, "general.quantization_version") == 2


def test_settings_and_tokens(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(to_gguf(WEIGHTS, tmp_path / "tiny.gguf"))
    expected = {
        "general.architecture": "chatglm", "general.file_type": 1, "chatglm.block_count": 6,
        "chatglm.embedding_length": 192, "chatglm.feed_forward_length": 512, "chatglm.context_length": 2048,
        "chatglm.attention.head_count": 4, "chatglm.attention.head_count_kv": 2, "chatglm.rope.dimension_count": 24,
        "chatglm.rope.freq_base": 10000.0, "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "chatglm-spm",
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip
    assert {name: setting(reader, name) for name in expected} == expected
    assert setting(reader, "chatglm.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    tokenizer = ChatGLMTokenizer.from_pretrained(WEIGHTS)
    spellings, types = (setting(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    assert len(spellings) == len(types) == len(setting(reader, "tokenizer.ggml.scores")) == 3072
    assert spellings[3063:] == [
        "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    ]  # fmt: skip
    assert spellings[:3063] == [tokenizer.tokenizer.sp_model.id_to_piece(index) for index in range(3063)]
    assert types[:260] == [2, 3, 3] + [6] * 256 + [1]
    assert types[3063:] == [3] * 9
    assert spellings[setting(reader, "tokenizer.ggml.eot_token_id")] == "<|user|>"
    assert spellings[setting(reader, "tokenizer.ggml.eom_token_id")] == "<|observation|>"
    assert "[gMASK]<sop>" in setting(reader, "tokenizer.chat_template")


def test_padding_and_rotation(tmp_path: Path) -> None:
    write_small(tmp_path / "model", **VARIANTS["divided positions"])
    reader = gguf.GGUFReader(to_gguf(tmp_path / "model", tmp_path / "a.gguf", dtype="f32"))
    spellings = setting(reader, "tokenizer.ggml.tokens")
    assert len(spellings) == 1536  # ChatGLM2: five special tokens, and no token ends an answer but </s>
    assert spellings[1500:1506] == ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "[PAD1505]"]
    assert setting(reader, "tokenizer.ggml.token_type")[1505:] == [5] * 31
    assert "tokenizer.ggml.eot_token_id" not in reader.fields
    assert setting(reader, "chatglm.rope.scaling.type") == "linear"
    assert setting(reader, "chatglm.rope.scaling.factor") == 4.0
    write_small(tmp_path / "other", **VARIANTS["other base"])
    reader = gguf.GGUFReader(to_gguf(tmp_path / "other", tmp_path / "b.gguf", dtype="f32"))
    assert setting(reader, "chatglm.rope.freq_base") == 500000.0
    assert "chatglm.rope.scaling.type" not in reader.fields


def test_heads_that_lie_apart_are_sorted(tmp_path: Path) -> None:
    model = write_small(tmp_path / "model", **VARIANTS["heads apart"])
    found = read_values(gguf.GGUFReader(to_gguf(tmp_path / "model", tmp_path / "a.gguf", dtype="f32")))
    fused = model.transformer.encoder.layers[0].self_attention.query_key_value
    for kind in ("weight", "bias"):
        parts = [split_rows(model.config, getattr(fused, kind).detach(), part) for part in "qkv"]
        assert torch.equal(found[f"blk.0.attn_qkv.{kind}"], torch.cat(parts))


def test_official_int4_is_written_as_stored(tmp_path: Path) -> None:
    model = write_small(tmp_path / "model")
    quantize_rowwise(model, 4).save_pretrained(tmp_path / "int4")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / "int4" / name).write_bytes((tmp_path / "model" / name).read_bytes())
    found = read_values(gguf.GGUFReader(to_gguf(tmp_path / "int4", tmp_path / "a.gguf", dtype="f32")))
    layer = model.transformer.encoder.layers[1].mlp.dense_4h_to_h
    assert torch.equal(found["blk.1.ffn_down.weight"], layer.dequantize())


@pytest.mark.parametrize("scheme", ["int4", "int4-g64-asym", "int8", "int8-rowwise"])
def test_packed_folders_are_written_as_stored(scheme: str, tmp_path: Path) -> None:
    write_small(tmp_path / "model")
    packed = quantize_folder(tmp_path / "model", tmp_path / "packed", scheme)
    model: Any = ChatGLMForConditionalGeneration.from_pretrained(packed, dequantize=True)
    layers, outer = model.transformer.encoder.layers, model.transformer
    expected = {
        "token_embd.weight": outer.embedding.word_embeddings.weight,
        "output.weight": outer.output_layer.weight,
        "output_norm.weight": outer.encoder.final_layernorm.weight,
        "blk.0.attn_qkv.weight": layers[0].self_attention.query_key_value.weight,
        "blk.0.attn_qkv.bias": layers[0].self_attention.query_key_value.bias,
        "blk.1.ffn_down.weight": layers[1].mlp.dense_4h_to_h.weight,
    }
    exact = read_values(gguf.GGUFReader(to_gguf(packed, tmp_path / "a.gguf", dtype="f32")))
    for name, weight in expected.items():
        torch.testing.assert_close(exact[name], weight.detach().float(), rtol=0, atol=0, msg=name)
    half = read_values(gguf.GGUFReader(to_gguf(packed, tmp_path / "b.gguf", dtype="f16")))
    assert all(
        torch.equal(half[name], exact[name].half().float()) for name in expected if name.endswith("_down.weight")
    )


def test_an_int4_folder_keeps_its_numbers_in_q4_0(tmp_path: Path) -> None:
    """Both have groups of 32 columns, and put the number of largest size at -8."""
    write_small(tmp_path / "model")
    packed = quantize_folder(tmp_path / "model", tmp_path / "packed", "int4")
    exact = read_values(gguf.GGUFReader(to_gguf(packed, tmp_path / "a.gguf", dtype="f32")))
    reader = gguf.GGUFReader(to_gguf(packed, tmp_path / "b.gguf", dtype="q4_0"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    found = read_values(reader)
    assert kinds["blk.1.ffn_up.weight"] == "Q4_0"
    for name, kind in kinds.items():
        if kind == "Q4_0":
            assert torch.equal(found[name], exact[name]), name
    head = float((found["output.weight"] - exact["output.weight"]).norm() / exact["output.weight"].norm())
    assert kinds["output.weight"] == "Q8_0"
    assert head < 0.01


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({"hidden_size": 48}, {}, "4 heads of 16 channels do not make up hidden_size 48"),
        ({"ffn_hidden_size": 100}, {"dtype": "q8_0"}, "blk.0.ffn_down.weight has 100 columns; q8_0 needs a multiple"),
        ({"add_bias_linear": True}, {}, "add_bias_linear=True"),
        ({"rmsnorm": False}, {}, "rmsnorm=False"),
        ({}, {"dtype": "int4"}, "dtype is 'int4'; a GGUF file is written as one of f16"),
    ],
)
def test_models_that_cannot_be_written(
    options: dict[str, Any], arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    write_small(tmp_path / "model", **options)
    with pytest.raises(ConfigError, match=words):
        to_gguf(tmp_path / "model", tmp_path / "a.gguf", **arguments)
    assert not list(tmp_path.glob("*.gguf*")) + list(tmp_path.glob(".*"))


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    model = write_small(tmp_path / "model")
    weight = model.transformer.output_layer.weight.data
    for value, words in ((1e5, "100000, which float16 cannot"), (float("nan"), "NaN or infinity")):
        weight[0, 0] = value
        model.save_pretrained(tmp_path / "model")
        with pytest.raises(ConfigError, match=words):
            to_gguf(tmp_path / "model", tmp_path / "a.gguf")
    assert not list(tmp_path.glob("*.gguf*")) + list(tmp_path.glob(".*"))


def test_bad_places_and_folders(tmp_path: Path) -> None:
    (tmp_path / "there.gguf").write_text("mine")
    for target, words in (("there.gguf", "is there already"), (".", "is a folder")):
        with pytest.raises(CheckpointError, match=words):
            to_gguf(WEIGHTS, tmp_path / target)
    assert (tmp_path / "there.gguf").read_text() == "mine"
    write_small(tmp_path / "model", padded_vocab_size=1504)
    with pytest.raises(CheckpointError, match="has 1509 tokens, the model's embedding 1504 rows"):
        to_gguf(tmp_path / "model", tmp_path / "a.gguf")
    (tmp_path / "model" / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        to_gguf(tmp_path / "model", tmp_path / "a.gguf")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(chatglm.errors.MissingExtraError, match=r"chatglm\[gguf\]"):
        to_gguf(WEIGHTS, tmp_path / "a.gguf")


# llama.cpp


def llama(file: Path, context: int = 512) -> Any:
    module = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: no llama.cpp to compare with")
    return module.Llama(str(file), n_ctx=context, n_threads=1, verbose=False)


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    model.reset()
    return list(islice(model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0), count))


def ours(model: Any, prompt: list[int], count: int) -> list[int]:
    rows = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=-1)
    return [int(token_id) for token_id in rows[0, len(prompt) :]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f16", "f32", "bf16"])
def test_llama_cpp_says_what_the_embedded_model_says(dtype: str, tmp_path: Path) -> None:
    other = llama(to_gguf(WEIGHTS, tmp_path / "tiny.gguf", dtype=dtype))
    model, tokenizer = chatglm.load(dtype="float32", device="cpu")
    questions = [one.turns[0].user for one in islice(stream(3, "phrasing"), 25)]
    prompts = [tokenizer.render([chatglm.Message("user", question)]).ids for question in questions]
    for question, prompt in zip(questions, prompts, strict=True):
        expected = ours(model, list(prompt), 24)
        end = expected.index(tokenizer.get_command("<|user|>")) + 1 if 3069 in expected else 24
        assert greedy(other, list(prompt), end) == expected[:end], question
    answer = other.create_chat_completion([{"role": "user", "content": "Hello!"}], temperature=0.0, max_tokens=40)
    ids = tokenizer.render([chatglm.Message("user", "Hello!")]).ids
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["choices"][0]["message"]["content"].strip() == model.chat(tokenizer, "Hello!", do_sample=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dtype"), [("int4", "f16"), ("int8", "f32")])
def test_llama_cpp_says_what_a_packed_folder_says(scheme: str, dtype: str, tmp_path: Path) -> None:
    packed = quantize_folder(WEIGHTS, tmp_path / "packed", scheme)
    other = llama(to_gguf(packed, tmp_path / "tiny.gguf", dtype=dtype))
    model, tokenizer = chatglm.load(packed, dtype="float32", device="cpu", dequantize=True)
    questions = [one.turns[0].user for one in islice(stream(3, "phrasing"), 15)]
    for question in questions:
        prompt = list(tokenizer.render([chatglm.Message("user", question)]).ids)
        expected = ours(model, prompt, 24)
        end = expected.index(tokenizer.get_command("<|user|>")) + 1 if 3069 in expected else 24
        assert greedy(other, prompt, end) == expected[:end], question


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_llama_cpp_computes_every_variant(name: str, tmp_path: Path) -> None:
    """Random networks, where every token hangs on every number."""
    model = write_small(tmp_path / "model", **VARIANTS[name])
    other = llama(to_gguf(tmp_path / "model", tmp_path / "a.gguf", dtype="f32"))
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        prompt = torch.randint(3, 1500, (40,), generator=generator).tolist()
        assert greedy(other, prompt, 12) == ours(model, prompt, 12)


TEXTS = (
    "Hello, world! 你好，世界。", "  a   b \n\n c\t", "sophisticated people, philosophy: eop sop", "12345 3.14 ＡＢＣ",
    "<|user|> [gMASK] </s> <unk>", "é①ﬁ👋🏽 naïve Ωmega Привет こんにちは", "def f(x):\n    return x ** 2  # 平方\n",
    "的" * 30, " " * 20, "\x00\x07",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["embedded", "small", "real"])
def test_llama_cpp_splits_texts_alike(tokenizer: str, tmp_path: Path) -> None:
    if tokenizer == "real" and not REAL_TOKENIZER.is_file():
        pytest.skip("the official tokenizer.model is not at hand")
    folder = WEIGHTS
    if tokenizer != "embedded":
        folder = tmp_path / "model"
        size = {"small": 1536, "real": 65024}[tokenizer]
        write_small(folder, REAL_TOKENIZER if tokenizer == "real" else None, padded_vocab_size=size)
    other, own = llama(to_gguf(folder, tmp_path / "a.gguf")), ChatGLMTokenizer.from_pretrained(folder)
    strings = [item["text"] for item in json.loads(golden_file("tokenization/strings.json").read_text())]
    conversations = [message.content for one in islice(stream(9, "phrasing"), 60) for message in one.messages()]
    for text in (*TEXTS, *strings, *conversations):
        if "\ud800" <= max(text, default="") <= "\udfff":
            continue
        assert other.tokenize(text.encode(), add_bos=False, special=False) == own.encode_text(text, plain=True), text
    rendered = own.apply_chat_template([{"role": "user", "content": "a sop 你好"}], add_generation_prompt=True)
    ids = rendered["input_ids"] if not isinstance(rendered, list) else rendered
    text = "[gMASK]<sop><|user|>\n a sop 你好<|assistant|>"
    assert other.tokenize(text.encode(), add_bos=False, special=True) == list(ids)
