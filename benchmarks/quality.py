"""What quantizing costs in quality: weights, logits and perplexity of the schemes, on two models, as Markdown.

    python benchmarks/quality.py [--examples 150] [--calibration 60] [--model FOLDER --text FILE]
    python benchmarks/quality.py --kernels [--examples 300]

The embedded model answers held-out phrasings; perplexity is that of its answers. The random network (Gaussian weights,
a few channels that stand out) says nothing, so it is judged by its logits alone. `--model` adds real weights with the
perplexity of a text. Weights are dequantized for the comparison: what is measured is their loss, not that of kernels.
`--kernels` measures these: whole answers of the embedded model, chosen greedily, and single products.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

import chatglm
from chatglm import native
from chatglm.demo import WEIGHTS
from chatglm.demo.conversation import stream
from chatglm.demo.encoding import Encoder
from chatglm.engine.request import SamplingParams
from chatglm.evaluate.perplexity import perplexity, read_text
from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.calibrate import cut, quantize_calibrated
from chatglm.quant.linear import QUANTIZED_LINEARS
from chatglm.quant.model import quantize_model, unpack_model
from chatglm.quant.packed import PackedLinear
from chatglm.quant.scheme import QuantScheme

RANDOM = {
    "num_layers": 3, "hidden_size": 512, "ffn_hidden_size": 1376, "kv_channels": 64, "num_attention_heads": 8,
    "padded_vocab_size": 4096, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
}  # fmt: skip
# What goes through a linear alone: nothing else is made smaller in the rows about methods.
PLAIN: dict[str, Any] = {"head_bits": None, "embedding_bits": None}


@dataclass(frozen=True)
class Texts:
    """Ids to calibrate on, ids to judge by, and for these which positions count."""

    calibration: list[Tensor]
    held_out: list[Tensor]
    counted: list[Tensor]


def variants() -> dict[str, Callable[[Any, list[Tensor]], Any]]:
    """Row of the table -> what to do with a copy of the model."""

    def plain(scheme: QuantScheme) -> Callable[[Any, list[Tensor]], Any]:
        return lambda model, _: quantize_model(model, scheme)

    def rounded(scheme: QuantScheme, method: Any) -> Callable[[Any, list[Tensor]], Any]:
        return lambda model, ids: quantize_calibrated(model, ids, scheme, method)

    found: dict[str, Callable[[Any, list[Tensor]], Any]] = {"bf16": lambda model, _: model.bfloat16().float()}
    found["int8, one scale a row"] = plain(QuantScheme(8, None, **PLAIN))
    for layout, size in (("g32", 32), ("g64", 64), ("g128", 128), ("row-wise (official)", None)):
        scheme = QuantScheme(4, size, **PLAIN)
        found[f"int4 {layout}"] = plain(scheme)
        found[f"int4 {layout}, scales searched (mse)"] = rounded(scheme, "mse")
        found[f"int4 {layout}, calibrated (gptq)"] = rounded(scheme, "gptq")
    found["int4 g32 asymmetric"] = plain(QuantScheme(4, 32, False, **PLAIN))
    linears = "*.layers.*"
    found["head at 8 bits alone"] = plain(QuantScheme(embedding_bits=None, skip=(linears,)))
    found["embedding at 8 bits alone"] = plain(QuantScheme(head_bits=None, skip=(linears,)))
    found["head at 4 bits alone"] = plain(QuantScheme(head_bits=4, embedding_bits=None, skip=(linears,)))
    found["int4 g32, head and embedding at 8 bits (default)"] = plain(QuantScheme())
    return found


def embedded(examples: int, calibration: int) -> tuple[Any, Texts]:
    """The embedded model; calibrated on training phrasings, judged on the answers to others."""
    encoder = Encoder(WEIGHTS / "tokenizer.model")
    train = [encoder.example(one) for one in islice(stream(5, "train"), calibration)]
    test = [encoder.example(one) for one in islice(stream(77, "phrasing"), examples)]
    texts = Texts(
        [torch.tensor(one.ids[:1024]) for one in train],
        [torch.tensor(one.ids[:1024]) for one in test],
        [torch.tensor(one.learned[1:1024]) for one in test],
    )
    return ChatGLMForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32), texts


def random_network() -> tuple[Any, Texts]:
    """Gaussian weights; a few channels of the embedding and the norms stand out twentyfold, as in large models."""
    torch.manual_seed(0)
    model = ChatGLMForConditionalGeneration(ChatGLMConfig(**RANDOM)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            if "layernorm" in name:
                parameter[torch.arange(0, 512, 100)] *= 20
    ids = [torch.randint(0, 4096, (256,)) for _ in range(24)]
    return model, Texts(ids[:16], ids[16:], [torch.ones(255, dtype=torch.bool)] * 8)


def log_probabilities(model: Any, texts: Texts) -> Iterator[tuple[Tensor, Tensor]]:
    """For each held-out text the log-probabilities at the counted positions, and the ids that came."""
    for ids, counted in zip(texts.held_out, texts.counted, strict=True):
        with torch.inference_mode():
            yield model(input_ids=ids[None]).logits[0, :-1][counted].log_softmax(-1), ids[1:][counted]


def compare(model: Any, other: Any, texts: Texts) -> tuple[float, float, float]:
    """-> KL(full || quantized) in nats, share of positions with the same likeliest token, perplexity of the other."""
    divergence = same = loss = count = 0.0
    for (full, ids), (less, _) in zip(log_probabilities(model, texts), log_probabilities(other, texts), strict=True):
        divergence += float((full.exp() * (full - less)).sum())
        same += float((full.argmax(-1) == less.argmax(-1)).sum())
        loss -= float(less.gather(1, ids[:, None]).sum())
        count += len(ids)
    return divergence / count, same / count, math.exp(loss / count)


def weight_error(model: Any, other: Any) -> float:
    """Relative error of the four linears of all layers together."""
    difference = size = 0.0
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in QUANTIZED_LINEARS:
            weight = module.weight.detach()
            difference += float((other.get_submodule(name).weight.detach() - weight).square().sum())
            size += float(weight.square().sum())
    return math.sqrt(difference / size)


def table(title: str, model: Any, texts: Texts, text: str | None = None, tokenizer: Any = None) -> None:
    """Print the table of one model."""
    says_something = text is not None or "embedded" in title
    print(f"\n### {title}\n")
    print("| weights | weight error | logit KL, nats | same likeliest token | perplexity | made in |")
    print("|---|---|---|---|---|---|")

    def perplexity_of(candidate: Any, fallback: float) -> str:
        if text is not None:
            return f"{perplexity(candidate, tokenizer, text).value:.4f}"
        return f"{fallback:.4f}" if says_something else "-"

    print(f"| full (float32) | 0 | 0 | 100 % | {perplexity_of(model, compare(model, model, texts)[2])} | |", flush=True)
    for name, change in variants().items():
        start = time.perf_counter()
        other = change(copy.deepcopy(model), texts.calibration)
        seconds = time.perf_counter() - start
        other = unpack_model(other, torch.float32)
        divergence, same, answer = compare(model, other, texts)
        error = weight_error(model, other)
        numbers = f"{100 * error:.2f} % | {divergence:.2e} | {100 * same:.2f} % | {perplexity_of(other, answer)}"
        print(f"| {name} | {numbers} | {seconds:.1f} s |", flush=True)


def answers(quantize: str | None, examples: int) -> list[list[int]]:
    """The embedded model's answers to held-out questions, greedily chosen through the engine and its kernels."""
    model, tokenizer = chatglm.load(quantize=quantize, dtype="float32", device="cpu")
    questions = [one.turns[0].user for one in islice(stream(77, "phrasing"), examples)]
    engine = chatglm.engine_for(model, tokenizer)
    params = SamplingParams(temperature=0, max_tokens=64)
    prompts = [tokenizer.render([chatglm.Message("user", question)]).ids for question in questions]
    requests = [engine.submit(list(prompt), params) for prompt in prompts]
    while not all(request.finished for request in requests):
        engine.step()
    return [list(request.output_ids) for request in requests]


def answers_table(examples: int) -> None:
    """How many answers are the same to the last token."""
    full = answers(None, examples)
    print(f"\n### Greedy answers of the embedded model, {examples} questions\n\n| weights | unchanged |\n|---|---|")
    for scheme in ("int8", "int8-rowwise", "int4", "int4-g64", "int4-g128", "int4-g32-asym", "int4-rowwise"):
        same = sum(found == wanted for found, wanted in zip(answers(scheme, examples), full, strict=True))
        print(f"| {scheme} | {100 * same / examples:.1f} % |", flush=True)


def products_table() -> None:
    """Relative errors of products against float64 with the weights as stored: median and largest of 20 draws."""
    print(f"\n### Error of products, kernels {native.level() if native.available() else 'missing'}\n")

    def spread(errors: list[float]) -> str:
        return f"{100 * statistics.median(errors):.2g} %, {100 * max(errors):.2g} %"

    print("| weights | columns | outlier channel | activations in 8 bits | float path |\n|---|---|---|---|---|")
    for scheme, columns, outlier in product(("int4", "int8"), (4096, 128), (1, 60)):
        rounded, precise = [], []
        for seed in range(20):
            torch.manual_seed(seed)
            layer = PackedLinear.from_linear(torch.nn.Linear(columns, 256, bias=False), QuantScheme.parse(scheme))
            states = torch.randn(8, columns)
            states[:, columns // 3] *= outlier
            expected = states.double() @ layer.dequantize().double().T
            for layer.precise, errors in ((False, rounded), (True, precise)):
                with torch.no_grad():
                    errors.append(float((layer(states) - expected).norm() / expected.norm()))
        shown = "none" if outlier == 1 else f"{outlier} times"
        print(f"| {scheme} | {columns} | {shown} | {spread(rounded)} | {spread(precise)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=150, help="held-out conversations")
    parser.add_argument("--calibration", type=int, default=60, help="conversations to calibrate on")
    parser.add_argument("--model", help="a folder with full weights, in addition")
    parser.add_argument("--text", help="text for it: the first half to calibrate on, the second to score")
    parser.add_argument("--kernels", action="store_true", help="what the kernels lose, instead of the weights")
    options = parser.parse_args()
    if options.kernels:
        products_table()
        answers_table(options.examples)
        return
    if (options.model is None) != (options.text is None):
        parser.error("--model and --text belong together")
    table("The embedded model", *embedded(options.examples, options.calibration))
    table("A random network", *random_network())
    if options.model is not None:
        model, tokenizer = chatglm.load(options.model, dtype="float32")
        text = read_text(options.text)
        first, second = text[: len(text) // 2], text[len(text) // 2 :]
        prefix = tokenizer.get_prefix_tokens()
        ids = cut(tokenizer.encode_text(first, plain=True), 512, 64, prefix)
        held_out = cut(tokenizer.encode_text(second, plain=True), 512, 8, prefix)
        counted = [torch.ones(len(one) - 1, dtype=torch.bool) for one in held_out]
        table(options.model, model, Texts(ids, held_out, counted), second, tokenizer)


if __name__ == "__main__":
    main()
