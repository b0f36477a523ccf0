"""From ids to logits through the kernels alone, against the modules around the same fused stack of layers."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_fused import GREEDY, SIZES, make, prompts, relative
from test_fused import logits_of as logits_of_modules  # by a hook, for which the modules have to run
from torch import nn

from chatglm import native
from chatglm.engine.adapters import LowRank
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import fuse, unfuse
from chatglm.quant.fused_network import NAME
from chatglm.quant.model import quantize_model

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no native kernels: {native.why_not()}")


def fused(scheme: str = "int4", **options: Any) -> Any:
    model = make(scheme, **options)
    assert fuse(model)
    return model


def logits_of(model: Any) -> torch.Tensor:
    """Float32 logits before every token of a text, in pieces and through the cache, as the engine gets them."""
    engine = Engine(model, EngineConfig(max_batch_tokens=16))
    seen: list[torch.Tensor] = []
    states = engine.runner._states

    def watched(*step: Any) -> Any:
        found, head = states(*step)
        return found, lambda which: seen.append(head(which)) or seen[-1]  # type: ignore[func-returns-value]

    engine.runner._states = watched  # type: ignore[method-assign]
    engine.score(prompts()[1], prompts()[3])
    return torch.cat(seen).float()


def taken(model: Any, step: Callable[[], Any]) -> list[bool]:
    """For every step, whether the short way was taken."""
    found: list[bool] = []
    way = model.__dict__[NAME]
    states = way.states

    def note(*rest: Any) -> Any:
        given = states(*rest)
        found.append(given is not None)
        return given

    way.states = note
    try:
        step()
    finally:
        del way.states
    return found


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [("int4", torch.float32), ("int8", torch.float32), ("int4-rowwise", torch.float32), ("int4", torch.bfloat16)],
)
@pytest.mark.parametrize(
    "options", [{}, {"post_layer_norm": False}, {"rope_ratio": 4.0, "rope_ratio_meaning": "base"}], ids=str
)
def test_logits_are_those_of_the_modules(scheme: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    model = fused(scheme, dtype=dtype, **options)
    expected = logits_of_modules(model)
    assert all(taken(model, lambda: logits_of(model)))
    of_tokens = (logits_of(model) - expected).norm(dim=1) / expected.norm(dim=1)
    assert of_tokens.median() < (2e-6 if dtype == torch.float32 else 2e-2)
    assert of_tokens.max() < 3e-2  # where an activation falls to the other side of a rounding step


def test_several_requests_get_the_tokens_they_get_alone() -> None:
    model = fused()
    sampled = SamplingParams(temperature=1.5, top_p=0.9, seed=4, max_tokens=12, ignore_eos=True)
    for params in (GREEDY, sampled):
        alone = [Engine(model).generate([prompt], params)[0].token_ids for prompt in prompts()]
        assert [answer.token_ids for answer in Engine(model).generate(prompts(), params)] == alone


def test_a_hook_is_heard_from_the_next_token_on() -> None:
    model = fused()
    engine = Engine(model)
    request = engine.submit(prompts()[1], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
    assert all(taken(model, lambda: [engine.step() for _ in range(4)]))
    for path in ("", "transformer", "transformer.rotary_pos_emb", "transformer.encoder", "transformer.output_layer",
                 "transformer.encoder.final_layernorm", "transformer.encoder.layers.2.mlp.dense_4h_to_h"):  # fmt: skip
        heard: list[str] = []
        handle = model.get_submodule(path).register_forward_hook(lambda *_, heard=heard, path=path: heard.append(path))
        assert not any(taken(model, lambda: [engine.step() for _ in range(5)]))
        assert heard == [path] * 5
        handle.remove()
        assert all(taken(model, lambda: [engine.step() for _ in range(5)]))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not any(taken(model, lambda: [engine.step() for _ in range(5)]))
    handle.remove()
    engine.abort(request)


def test_adapters_that_are_loaded_leave_the_others_their_short_way() -> None:
    """Requests without one take it, beside requests with one too, and get to the bit what they get alone."""
    model = fused()
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=3)
    before = Engine(model).generate(prompts(), params)
    engine, generator = Engine(model), torch.Generator().manual_seed(1)
    path = "transformer.encoder.layers.1.self_attention.query_key_value"
    linear = model.get_submodule(path)
    down, up = (
        torch.randn(*shape, generator=generator) for shape in ((4, linear.in_features), (linear.out_features, 4))
    )
    engine.add_adapter("a", {path: LowRank(down, up, 0.3)})
    head = model.transformer.output_layer
    engine.add_adapter("b", {"transformer.output_layer": LowRank(down, torch.randn(head.out_features, 4), 0.3)})
    answers: list[Any] = []
    assert all(taken(model, lambda: answers.extend(engine.generate(prompts(), params))))
    assert answers == before
    assert not taken(model, lambda: engine.wait(engine.submit(prompts()[0], params, adapter="a"))), "not even asked"
    alone = {name: engine.wait(engine.submit(prompts()[1], params, adapter=name)) for name in ("a", "b")}
    requests = [engine.submit(prompt, params, adapter=name) for prompt in prompts() for name in (None, "a", "b")]
    found: list[Any] = []
    steps = taken(model, lambda: found.extend(engine.wait(request) for request in requests))
    assert all(steps)
    assert len(steps) >= 12
    assert found[0::3] == before
    for place, name in ((4, "a"), (5, "b")):
        assert found[place].token_ids == alone[name].token_ids != before[1].token_ids


def test_what_is_replaced_in_the_middle_of_an_answer_is_noticed() -> None:
    """What all layers share at once, one layer after as many tokens as there are, by the next prompt in any case."""
    model = fused()
    engine = Engine(model)
    engine.submit(prompts()[1], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
    assert all(taken(model, lambda: [engine.step() for _ in range(4)]))
    layer = model.transformer.encoder.layers[1]
    layer.forward = lambda hidden_states, *_, **__: (hidden_states, None)
    seen = taken(model, lambda: [engine.step() for _ in range(8)])
    assert not any(seen[3:])
    del layer.forward
    assert all(taken(model, lambda: [engine.step() for _ in range(4)]))
    layer.forward = lambda hidden_states, *_, **__: (hidden_states, None)
    engine.submit(prompts()[2], GREEDY)
    assert not any(taken(model, engine.step))
    del layer.forward
    embedding = model.transformer.embedding
    embedding.forward = lambda ids: embedding.word_embeddings(ids) * 2
    assert not any(taken(model, lambda: [engine.step() for _ in range(3)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_change_are_noticed(dtype: torch.dtype) -> None:
    model = fused(dtype=dtype)
    before = logits_of(model)
    with torch.no_grad():
        model.transformer.encoder.final_layernorm.weight.mul_(-0.5)
    assert relative(logits_of(model), -0.5 * before) < 2e-2
    model.transformer.encoder.final_layernorm.weight.data = model.transformer.encoder.final_layernorm.weight.data * -2
    assert relative(logits_of(model), before) < 2e-2
    other = fused("int8", dtype=dtype)
    model.transformer.output_layer = other.transformer.output_layer
    model.transformer.embedding.word_embeddings = other.transformer.embedding.word_embeddings
    assert all(taken(model, lambda: logits_of(model)))
    assert relative(logits_of(model), logits_of_modules(model)) < 2e-2
    model.transformer.rotary_pos_emb.base = 100.0
    assert relative(logits_of(model), logits_of_modules(model)) < 2e-2


def test_ids_without_a_row_are_an_error_of_their_request() -> None:
    model = fused()
    model.config.vocab_size = 400  # lets them through; the embedding has 300 rows
    answer = Engine(model).generate([[5, 350]], GREEDY)[0]
    assert answer.finish_reason == "error"
    assert "350" in str(answer.error)
    assert Engine(model).generate([[5]], GREEDY)[0].finish_reason == "length"


def test_a_network_with_a_forward_of_its_own_keeps_it() -> None:
    class Loud(ChatGLMForConditionalGeneration):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            outputs = super().forward(*arguments, **options)
            outputs.logits = outputs.logits * 0 + torch.arange(300) % 8
            return outputs

    model = quantize_model(Loud(ChatGLMConfig(**SIZES)).eval(), "int4")
    assert fuse(model)
    assert NAME not in model.__dict__
    assert Engine(model).generate([[5]], GREEDY)[0].token_ids[0] == 7


def test_copies_are_their_own_and_it_can_be_taken_off() -> None:
    model = fused()
    expected = logits_of(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  # made a moment ago
        assert copied.__dict__[NAME].model is copied
        with torch.no_grad():
            copied.transformer.encoder.final_layernorm.weight.zero_()
        assert not logits_of(copied).any()
    assert torch.equal(logits_of(model), expected)
    unfuse(model)
    assert NAME not in model.__dict__
    assert relative(logits_of(model), expected) < 2e-2


@pytest.mark.parametrize("settings", [GREEDY, SamplingParams(temperature=0.7, seed=5, max_tokens=40, ignore_eos=True)])
def test_guesses_nobody_asked_for_change_no_token(settings: SamplingParams) -> None:
    """Long after the beginning, where attention is cut into stretches, too."""
    model = fused("int4", seq_length=2048)
    settings = replace(settings, max_tokens=40, ignore_eos=True, logit_bias={5: 12.0, 6: 12.0})
    copied = [[5, 6, 5, 5, 6] * 6, [5, 6, 6, 5] * 300]
    engine = Engine(model)
    found = engine.generate(copied, settings)
    assert found == Engine(model).generate(copied, replace(settings, draft=None))
    assert engine.drafter.by_itself
    assert engine.stats().drafts_proposed > 0
