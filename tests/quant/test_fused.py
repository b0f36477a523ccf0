"""The stack of layers in one native call against the network's own code over the same packed weights."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from chatglm import native
from chatglm.engine.adapters import LowRank
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import FusedForward, fuse, unfuse
from chatglm.quant.model import quantize_model
from chatglm.quant.packed import PackedLinear

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native kernels: {native.why_not()}")
SIZES = {
    "num_layers": 3, "hidden_size": 64, "ffn_hidden_size": 72, "kv_channels": 16, "num_attention_heads": 4,
    "padded_vocab_size": 300, "multi_query_attention": True, "multi_query_group_num": 2, "seq_length": 512,
    "add_qkv_bias": True,
"eos_token_id": None,
}  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=8)
QKV = "transformer.encoder.layers.1.self_attention.query_key_value"


def make(scheme: str = "int4", dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A quantized model, not fused, whose attention and gates do more than a fresh one's."""
    torch.manual_seed(3)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**(SIZES | options))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1)
            if "layernorm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return quantize_model(model.to(dtype), scheme)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 290, (length,), generator=generator).tolist() for length in (1, 50, 13, 40)]


def forward_of(model: Any) -> FusedForward:
    found: FusedForward = model.transformer.encoder.forward
    assert isinstance(found, FusedForward)
    return found


def native_calls(model: Any, monkeypatch: pytest.MonkeyPatch, step: Callable[[], Any]) -> int:
    """How often the stack went through the kernels."""
    calls = []
    layers_forward = native.layers_forward
    with monkeypatch.context() as patch:
        patch.setattr(native, "layers_forward", lambda *rest: calls.append(1) or layers_forward(*rest))
        step()
    return len(calls)


def logits_of(model: Any, config: EngineConfig | None = None) -> torch.Tensor:
    """Float32 logits after every token of a text, in pieces and through the cache."""
    seen = []

    def keep(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        seen.append(output.detach().float()[0].clone())

    handle = model.transformer.output_layer.register_forward_hook(keep)
    Engine(model, config or EngineConfig(max_batch_tokens=16)).score(prompts()[1], prompts()[3])
    handle.remove()
    return torch.cat(seen)


def exactly(model: Any) -> None:
    """From now on without rounding activations."""
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.precise = True


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


SCHEMES = ["int4", "int4-g64-asym", "int8", "int4-rowwise", "int8-rowwise", "int8-g32"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kv_dtype", ["model", "bfloat16", "int8"])
def test_a_layer_equals_the_networks_own_code(scheme: str, kv_dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To float32 rounding, but for tokens one of whose activations falls to the other side of a rounding step."""
    model = make(scheme, num_layers=1)
    config = EngineConfig(max_batch_tokens=16, kv_dtype=kv_dtype, attention="reference")
    plain = logits_of(model, config)
    assert fuse(model)
    assert native_calls(model, monkeypatch, lambda: logits_of(model, config)) > 0
    fused = logits_of(model, config)
    of_tokens = (fused - plain).norm(dim=1) / plain.norm(dim=1)
    assert of_tokens.median() < (1e-6 if kv_dtype == "model" else 2e-3)  # what is stored coarsely is rounded as well
    assert relative(fused, plain) < 5e-3
    unfuse(model)
    assert torch.equal(logits_of(model, config), plain)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_stack_is_as_close_to_the_weights(scheme: str) -> None:
    """An activation that is rounded otherwise changes those of the next layers: the distance between two roundings is
    that of either to none. It must not be more."""
    model = make(scheme)
    plain = logits_of(model)
    assert fuse(model)
    fused = logits_of(model)
    exactly(model)
    exact = logits_of(model)
    assert relative(fused, plain) < 1.2 * relative(plain, exact)
    assert relative(fused, exact) < 1.2 * relative(plain, exact) < 3e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_worse_than_the_networks_own(dtype: torch.dtype) -> None:
    """The kernels keep the stream in float32 between the layers."""
    model = make(dtype=dtype)
    exact = logits_of(copy.deepcopy(model).float())
    plain = relative(logits_of(model), exact)
    assert fuse(model)
    assert relative(logits_of(model), exact) < max(plain, 1.5e-2)


def test_requests_of_all_kinds_get_the_same_tokens() -> None:
    model = make()
    assert fuse(model)
    alone = [Engine(model, EngineConfig(prefix_cache=False)).generate([p], GREEDY)[0].token_ids for p in prompts()]
    for options in ({}, {"max_batch_tokens": 7}, {"block_size": 1}, {"max_running": 1}):
        engine = Engine(model, EngineConfig(**options), draft_model=model)
        for draft in (None, "lookup", "model"):
            params = SamplingParams(temperature=0, max_tokens=8, draft=draft)
            assert [answer.token_ids for answer in engine.generate(prompts(), params)] == alone
        engine.check_integrity()


def test_generate_and_training_use_the_networks_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    ids = torch.tensor(prompts()[1:2])
    plain = model(ids, labels=ids).loss
    plain.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert expected
    model.zero_grad()
    assert fuse(model)

    def train() -> None:
        loss = model(ids, labels=ids).loss
        assert torch.equal(loss, plain)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (name not in expected)
            assert parameter.grad is None or torch.equal(parameter.grad, expected[name])

    assert native_calls(model, monkeypatch, train) == 0
    model.train()
    assert native_calls(model, monkeypatch, lambda: Engine(model).generate(prompts(), GREEDY)) > 0
    assert model.training


def test_hooks_see_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    plain = logits_of(model)
    assert fuse(model)
    seen = []
    for path in (QKV, "transformer.encoder.layers.0", "transformer.encoder.layers.2.mlp"):
        for register in ("register_forward_hook", "register_forward_pre_hook"):
            handle = getattr(model.get_submodule(path), register)(lambda *_, path=path: seen.append(path))
            assert native_calls(model, monkeypatch, lambda: logits_of(model)) == 0
            assert seen.pop() == path
            handle.remove()
    handle = model.transformer.encoder.register_forward_hook(lambda *_: seen.append("encoder"))
    assert native_calls(model, monkeypatch, lambda: logits_of(model)) > 0  # around the stack, not in it
    assert seen.pop() == "encoder"
    handle.remove()
    layer = model.transformer.encoder.layers[1]
    layer.forward = lambda hidden_states, *_, **__: (hidden_states, None)  # as accelerate and users do
    assert native_calls(model, monkeypatch, lambda: logits_of(model)) == 0
    assert relative(logits_of(model), plain) > 0.1
    del layer.forward
    assert relative(logits_of(model), plain) < 2e-2


def test_an_exact_layer_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    exactly(model)
    plain = logits_of(model)
    assert fuse(model)
    assert native_calls(model, monkeypatch, lambda: logits_of(model)) == 0
    assert torch.equal(logits_of(model), plain)


def test_adapters_of_requests() -> None:
    plain, model = make(), make()
    assert fuse(model)
    generator = torch.Generator().manual_seed(1)
    linear = model.get_submodule(QKV)
    down = torch.randn(4, linear.in_features, generator=generator)
    update = {QKV: LowRank(down, torch.randn(linear.out_features, 4, generator=generator), 0.3)}
    answers = []
    for each in (plain, model):
        engine = Engine(each)
        engine.add_adapter("a", update)
        requests = [engine.submit(p, GREEDY, adapter=name) for p in prompts() for name in ("a", None)]
        answers.append([engine.wait(request).token_ids for request in requests])
        engine.remove_adapter("a")
    assert answers[0] == answers[1]
    assert answers[0][0::2] != answers[0][1::2], "the adapter changes nothing"


class Wrapped(nn.Module):
    """As adapters do it: the linear inside, an update beside it."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.base_layer = linear

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.base_layer(states) * 1.5  # type: ignore[no-any-return]


def test_an_adapter_put_around_a_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    assert fuse(model)
    before = logits_of(model)
    attention = model.transformer.encoder.layers[1].self_attention
    attention.query_key_value = Wrapped(attention.query_key_value)
    assert native_calls(model, monkeypatch, lambda: logits_of(model)) == 0
    assert relative(logits_of(model), before) > 0.05


def test_a_prefix() -> None:
    plain, model = make(pre_seq_len=5), make(pre_seq_len=5)
    fuse(model)
    found, expected = (Engine(each).generate(prompts(), GREEDY) for each in (model, plain))
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_change_are_noticed(dtype: torch.dtype) -> None:
    model, other = make(dtype=dtype), make(dtype=dtype)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith("bias") or "layernorm" in name:
                parameter.mul_(-0.5)
    expected = logits_of(other)
    assert fuse(model)
    assert relative(logits_of(model), expected) > 0.1
    model.load_state_dict(other.state_dict())  # in place
    assert relative(logits_of(model), expected) < 2e-2
    wide = copy.deepcopy(model).float()
    assert isinstance(wide.transformer.encoder.forward, FusedForward)
    unfused = copy.deepcopy(wide)
    unfuse(unfused)
    assert relative(logits_of(wide), logits_of(unfused)) < 2e-2
    quantize = make("int8", dtype)
    model.transformer.encoder.layers[0] = quantize.transformer.encoder.layers[0]  # another layer, another scheme
    plain = copy.deepcopy(model)
    unfuse(plain)
    assert relative(logits_of(model), logits_of(plain)) < 2e-2


def test_copies_are_their_own() -> None:
    model = make()
    assert fuse(model)
    expected = logits_of(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  # made a moment ago
        assert forward_of(copied).stack is copied.transformer.encoder
        assert torch.equal(logits_of(copied), expected)
        with torch.no_grad():
            for parameter in copied.transformer.encoder.parameters():
                parameter.zero_()
        assert not torch.equal(logits_of(copied), expected)
    assert torch.equal(logits_of(model), expected)


def test_two_engines_over_one_model_and_one_that_is_gone() -> None:
    model = make()
    assert fuse(model)
    first, second = Engine(model), Engine(model, EngineConfig(block_size=4, kv_dtype="int8"))
    expected = [answer.token_ids for answer in Engine(model).generate(prompts(), GREEDY)]
    for _ in range(2):
        assert [answer.token_ids for answer in first.generate(prompts(), GREEDY)] == expected
        second.generate(prompts(), GREEDY)
    del second
    assert [answer.token_ids for answer in first.generate(prompts(), GREEDY)] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"kv_channels": 12},
        {"hidden_size": 72, "num_attention_heads": 4},
        {"apply_residual_connection_post_layernorm": True},
        {"fp32_residual_connection": True},
        {"rmsnorm": False},
        {"multi_query_attention": False},
    ],
    ids=str,
)
def test_networks_that_the_kernels_do_not_know(options: dict[str, Any]) -> None:
    model = make(**options)
    assert not fuse(model)
    assert "forward" not in model.transformer.encoder.__dict__
    assert Engine(model).generate([prompts()[1]], GREEDY)[0].token_ids


def test_fusing_twice_and_taking_off() -> None:
    model = make()
    full = ChatGLMForConditionalGeneration(ChatGLMConfig(**SIZES))
    assert not fuse(full)  # full weights
    assert fuse(model)
    assert fuse(model)
    assert forward_of(model).plain.__func__ is type(model.transformer.encoder).forward
    unfuse(model)
    unfuse(model)
    assert "forward" not in model.transformer.encoder.__dict__
