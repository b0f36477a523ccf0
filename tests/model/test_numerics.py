"""The network against numbers recorded from the official code, call by call: logits, hidden states, caches, losses."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from golden_calls import GoldenCase, load_case
from golden_data import golden_cases

CASES = golden_cases("numerics")
# Its loss counts a guess that pad rows make of the first real token; only the official pad rows give that value.
MEANINGLESS_LOSSES = {("h_loss_grads", "padded")}


def close(case: GoldenCase, name: str, actual: torch.Tensor, rows: torch.Tensor | None = None) -> None:
    """`rows`: positions that mean something (the official code lets pad rows attend to everything)."""
    expected, tolerance = case.tensors[name], case.meta["tolerance"]
    assert actual.shape == expected.shape, name
    if rows is not None:
        actual, expected = actual[rows], expected[rows]
    torch.testing.assert_close(
        actual, expected, atol=tolerance["atol"], rtol=tolerance["rtol"], equal_nan=True, msg=lambda m: f"{name}: {m}"
    )


def real_rows(case: GoldenCase, call: dict[str, Any]) -> torch.Tensor:
    """[B, S], true where a new token is no padding."""
    ids = case.tensors[call["input_ids"]]
    if "attention_mask" not in call:
        return torch.ones_like(ids, dtype=torch.bool)
    return case.tensors[call["attention_mask"]][:, -ids.shape[1] :].bool()


def cached_rows(case: GoldenCase, call: dict[str, Any], length: int) -> torch.Tensor | None:
    """[T, B], true where a cached token is no padding; a prefix stands in front of the mask."""
    if "attention_mask" not in call:
        return None
    mask = case.tensors[call["attention_mask"]].bool()
    return torch.nn.functional.pad(mask, (length - mask.shape[1], 0), value=True).T


def recorded(case: GoldenCase, call: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(full name, kind) of every output saved for a call."""
    prefix = call["name"] + "."
    given = {call.get(key) for key in ("input_ids", "position_ids", "attention_mask", "labels")}
    yield from ((name, name[len(prefix) :]) for name in case.tensors if name.startswith(prefix) and name not in given)


def check_output(case: GoldenCase, call: dict[str, Any], outputs: Any, name: str, kind: str) -> bool:
    """Compare one saved output; False where it is of a kind judged elsewhere."""
    rows = real_rows(case, call)
    field, _, rest = kind.partition(".")
    if field == "logits":
        whole = call.get("return_last_logit") or case.meta["task"] == "seq_cls"
        close(case, name, outputs.logits, None if whole else rows)
    elif field == "last_hidden_state":
        close(case, name, outputs.final.transpose(0, 1), rows.T)
    elif field == "hidden_states":
        close(case, name, outputs.hidden_states[int(rest)].transpose(0, 1), rows.T)
    elif field == "past_key_values":
        layer, which = rest.split(".")
        cached = outputs.past_key_values.layers[int(layer)]
        states = cached.keys if which == "key" else cached.values
        close(case, name, states.permute(2, 0, 1, 3), cached_rows(case, call, states.shape[2]))
    elif field == "loss" and (case.name, call["name"]) not in MEANINGLESS_LOSSES:
        close(case, name, outputs.loss.to(outputs.logits.dtype).reshape(1))
    elif field == "grad" and (case.name, call["name"]) not in MEANINGLESS_LOSSES:
        close(case, name, dict(case.model.named_parameters())[rest].grad)
    else:
        return False
    return True


def run_call(case: GoldenCase, call: dict[str, Any]) -> int:
    """Replay one call; returns how many recorded outputs were compared."""
    arguments = case.arguments(call)
    if call["name"] == "c2_no_position_ids":  # the official code restarts at 0 there; ours continues, so say it
        arguments["position_ids"] = torch.arange(arguments["input_ids"].shape[1])[None]
    finals: list[torch.Tensor] = []
    norm = getattr(case.model.transformer.encoder, "final_layernorm", None)
    handle = norm.register_forward_hook(lambda *args: finals.append(args[2])) if norm is not None else None
    case.model.zero_grad()
    with torch.set_grad_enabled("grads" in call):
        outputs = case.model(**arguments, use_cache=call.get("use_cache", True), output_hidden_states=True)
    if handle is not None:
        handle.remove()
    outputs.final = finals[-1] if finals else outputs.hidden_states[-1]
    case.caches[call["name"]] = outputs.past_key_values
    if "grads" in call:
        outputs.loss.backward()
    return sum(check_output(case, call, outputs, name, kind) for name, kind in recorded(case, call))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CASES)
def test_recorded_calls(name: str, attention: str) -> None:
    case = load_case(name, attention)
    for call in case.meta["calls"]:
        saved = call.get("save", ["logits"])
        assert run_call(case, call) > 0 or saved == [], call["name"]
