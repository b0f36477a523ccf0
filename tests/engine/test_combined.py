"""Everything at once: whatever a request asks for and whoever runs beside it, it gets what it would get alone.

The default storms are always the same ones, the long ones are new each time.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from constraints import Counting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatglm import native
from chatglm.engine.adapters import LowRank
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import Request, SamplingParams
from chatglm.engine.results import Completion
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.fused import fuse
from chatglm.quant.model import quantize_model
from chatglm.quant.scheme import QuantScheme

VOCABULARY = 32
PER_TOKEN = {"model": 2 * 2 * 2 * 16 * 4, "float16": 2 * 2 * 2 * 16 * 2, "int8": 2 * 2 * 2 * 20}


class Letters:
    def push(self, token_id: int) -> str:
        return chr(ord("a") + token_id)

    def flush(self) -> str:
        return ""


def letters() -> list[bytes]:
    return [chr(ord("a") + token).encode() for token in range(VOCABULARY)]


@cache
def network(kind: str) -> Any:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        num_layers=2, hidden_size=32, ffn_hidden_size=32, kv_channels=16, num_attention_heads=4,
        padded_vocab_size=VOCABULARY, multi_query_attention=True, multi_query_group_num=2, seq_length=64,
        eos_token_id=None,
        pre_seq_len=3 if kind == "prefix" else None,
    )  # fmt: skip
    model = ChatGLMForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layernorm" not in name:
                parameter.normal_(0, 0.4)  # large enough that every cached key and value counts
    if kind == "packed":
        quantize_model(model, QuantScheme.parse("int4"))
        assert fuse(model)
    return model


PLACES = [
    "transformer.encoder.layers.1.self_attention.query_key_value",
    "transformer.encoder.layers.0.mlp.dense_h_to_4h",
    "transformer.output_layer",
]


@cache
def adapter(seed: int) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)
    modules = {path: network("plain").get_submodule(path) for path in PLACES}
    return {
        path: LowRank(
            torch.randn(3, module.in_features, generator=generator),
            torch.randn(module.out_features, 3, generator=generator), 0.2,
        )
        for path, module in modules.items()
    }  # fmt: skip


def bans_odd(output_ids: Any, logits: torch.Tensor) -> None:
    if len(output_ids) % 2:
        logits[1::2] = -torch.inf


def counts_up() -> Counting:
    return Counting(VOCABULARY)


@dataclass(frozen=True)
class Wish:
    """What somebody submits; plain values, so that it can be looked up."""

    prompt: tuple[int, ...]
    sampling: tuple[tuple[str, Any], ...]
    limits: tuple[tuple[str, Any], ...]
    extra: tuple[tuple[str, Any], ...]
    draft: str | None
    adapter: str | None

    @property
    def params(self) -> SamplingParams:
        values = dict((*self.sampling, *self.limits, *self.extra))
        if "logit_bias" in values:
            values["logit_bias"] = dict(values["logit_bias"])
        return SamplingParams(draft=self.draft, **values)  # type: ignore[arg-type]


wishes = st.builds(
    Wish,
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=30).map(tuple),
    sampling=st.sampled_from(
        [
            (("temperature", 0),),
            (("seed", 3),),
            (("seed", 4), ("temperature", 0.7), ("top_p", 0.8), ("top_k", 9)),
            (("seed", 5), ("min_p", 0.05), ("repetition_penalty", 1.3), ("frequency_penalty", 0.4)),
            (("temperature", 0), ("presence_penalty", 1.0), ("logit_bias", ((7, 2.0), (3, -100.0)))),
        ]
    ),  # fmt: skip
    limits=st.sampled_from(
        [
            (("max_tokens", 1),),
            (("max_tokens", 12),),
            (("max_tokens", 14), ("stop_token_ids", (5, 6, 7, 8))),
            (("max_tokens", 14), ("stop_token_ids", tuple(range(0, 32, 3))), ("min_tokens", 5)),
        ]
    ),  # fmt: skip
    extra=st.sampled_from(
        [
            (),
            (("logprobs", 2),),
            (("stop", ("ab", "k", "cde")),),
            (("bad_words", ("a", "kk", "bcd")), ("bad_words_ids", ((4,), (1, 2)))),
            (("hook", bans_odd),),
            (("constraint", counts_up), ("logprobs", 0)),
        ]
    ),  # fmt: skip
    draft=st.sampled_from([None, "lookup", "model"]),
    adapter=st.sampled_from([None, None, "x", "y"]),
)
actions = st.lists(
    st.one_of(
        wishes,
        wishes,
        st.integers(2, 3).flatmap(lambda n: wishes.map(lambda wish: (n, wish))),
        st.integers(1, 6).map(lambda steps: ("step", steps)),
        st.integers(0, 99).map(lambda which: ("abort", which)),
        st.tuples(st.just("score"), wishes),
    ),
    min_size=3,
    max_size=12,
)


def engine_of(kind: str, with_adapters: bool, **config: Any) -> Engine:
    engine = Engine(network(kind), EngineConfig(**config), Letters, letters, draft_model=network("plain"))
    if with_adapters:
        for seed, name in enumerate("xy"):
            engine.add_adapter(name, adapter(seed))
    return engine


@cache
def alone(kind: str, with_adapters: bool, kv_dtype: str, wish: Wish, shift: int = 0) -> Completion:
    engine = engine_of(kind, with_adapters, kv_dtype=kv_dtype, prefix_cache=False)
    params = replace(wish.params, draft=None)
    params = replace(params, seed=params.seed + shift) if params.seed is not None else params
    return engine.wait(engine.submit(wish.prompt, params, adapter=wish.adapter))


class Storm:
    """Plays actions against an engine and remembers who asked for what."""

    def __init__(self, engine: Engine, kind: str, with_adapters: bool) -> None:
        self.engine, self.kind, self.with_adapters = engine, kind, with_adapters
        self.asked: list[tuple[Request, Wish, int]] = []

    def act(self, action: Any) -> None:
        if isinstance(action, Wish):
            self.asked.append((self._submit(action), self._fitting(action), 0))
        elif isinstance(action[0], int):
            wish = self._fitting(action[1])
            requests = self.engine.submit_many(wish.prompt, wish.params, action[0], adapter=wish.adapter)
            self.asked.extend((request, wish, index) for index, request in enumerate(requests))
        elif action[0] == "step":
            for _ in range(action[1]):
                self.engine.step()
                self.engine.check_integrity()
        elif action[0] == "abort" and self.asked:
            self.engine.abort(self.asked[action[1] % len(self.asked)][0])
        elif action[0] == "score":
            wish = self._fitting(action[1])
            quiet = engine_of(self.kind, self.with_adapters, kv_dtype=self.engine.config.kv_dtype, prefix_cache=False)
            found = self.engine.score(wish.prompt, [1, 2, 3], adapter=wish.adapter)
            expected = quiet.score(wish.prompt, [1, 2, 3], adapter=wish.adapter)
            bound = 3e-2 if self.engine.config.kv_dtype == "int8" else 1e-3
            assert found.token_logprobs == pytest.approx(expected.token_logprobs, abs=bound)
        self.engine.check_integrity()

    def _fitting(self, wish: Wish) -> Wish:
        return wish if self.with_adapters else replace(wish, adapter=None)

    def _submit(self, wish: Wish) -> Request:
        wish = self._fitting(wish)
        return self.engine.submit(wish.prompt, wish.params, adapter=wish.adapter)

    def finish(self) -> None:
        for _ in range(3000):
            if not self.engine.scheduler.has_work:
                break
            self.engine.step()
            self.engine.check_integrity()
        assert self.engine.blocks.num_free == self.engine.blocks.num_blocks
        for request, wish, shift in self.asked:
            self._check(request, alone(self.kind, self.with_adapters, self.engine.config.kv_dtype, wish, shift))

    def _check(self, request: Request, expected: Completion) -> None:
        # INT8: a tie rounded to the other side moves a score a little.
        bound = 3e-2 if self.engine.config.kv_dtype == "int8" else 1e-3
        outputs = list(request.outputs)
        told = tuple(token for output in outputs for token in output.token_ids)
        assert told == tuple(request.output_ids) == expected.token_ids[: len(told)]
        assert [output.finish_reason for output in outputs if output.finish_reason] == [request.finish_reason]
        if request.finish_reason == "abort":
            return
        found = (request.finish_reason, request.stop_id, "".join(output.text for output in outputs), request.error)
        assert found == (expected.finish_reason, expected.stop_id, expected.text, expected.error)
        assert len(told) == len(expected.token_ids)
        logprobs = [item for output in outputs for item in output.logprobs]
        assert [item.logprob for item in logprobs] == pytest.approx([i.logprob for i in expected.logprobs], abs=bound)


KINDS = [
    ("plain", True, "model"),
    ("plain", True, "int8"),
    ("prefix", True, "model"),
    ("prefix", False, "int8"),
    pytest.param("packed", False, "float16", marks=pytest.mark.skipif(not native.available(), reason=native.why_not())),
    pytest.param("packed", True, "int8", marks=pytest.mark.skipif(not native.available(), reason=native.why_not())),
]


def play(kind: str, with_adapters: bool, kv_dtype: str, actions: Any, config: dict[str, Any]) -> None:
    tokens = config.pop("tokens")
    engine = engine_of(kind, with_adapters, kv_dtype=kv_dtype, kv_memory=tokens * PER_TOKEN[kv_dtype], **config)
    storm = Storm(engine, kind, with_adapters)
    for action in actions:
        storm.act(action)
    storm.finish()


configs = st.fixed_dictionaries({
    "tokens": st.integers(52, 120),
    "block_size": st.sampled_from([1, 4]),
    "max_batch_tokens": st.sampled_from([3, 16, 64]),
    "max_prompt_tokens": st.sampled_from([1, 5, None]),
    "max_running": st.integers(1, 6),
})  # fmt: skip
unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize(("kind", "with_adapters", "kv_dtype"), KINDS)
@settings(unhurried, max_examples=4, derandomize=True)
@given(actions=actions, config=configs)
def test_storm(kind: str, with_adapters: bool, kv_dtype: str, actions: Any, config: Any) -> None:
    play(kind, with_adapters, kv_dtype, actions, config)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "with_adapters", "kv_dtype"), KINDS)
@settings(unhurried, max_examples=60)
@given(actions=actions, config=configs)
def test_long_storm(kind: str, with_adapters: bool, kv_dtype: str, actions: Any, config: Any) -> None:
    play(kind, with_adapters, kv_dtype, actions, config)


@pytest.mark.parametrize("kind", ["plain", "prefix"])
@pytest.mark.parametrize("ahead", [{"static_decode": True}, {"run_ahead": True}], ids=str)
@settings(unhurried, max_examples=3, derandomize=True)
@given(actions=actions, config=configs)
def test_storm_of_steps_with_fixed_shapes(kind: str, ahead: Any, actions: Any, config: Any) -> None:
    play(kind, True, "model", actions, config | {"attention": "sdpa"} | ahead)
