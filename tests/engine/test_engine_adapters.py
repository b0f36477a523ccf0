"""Adapters of rows: each row gets its own update, and those of one adapter are computed together."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from chatglm.engine.adapters import AdapterSet, LowRank

NAMES = [["a", None, "b", "a", "b", "a"], ["a", "a", None, "b", "b", None], ["b"] * 6, [None] * 6]


def low_rank(linear: nn.Linear) -> LowRank:
    return LowRank(torch.randn(3, linear.in_features), torch.randn(linear.out_features, 3), 0.5)


@pytest.mark.parametrize("names", NAMES, ids=str)
def test_every_row_gets_its_own_update(names: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one product each way for an adapter and a linear, wherever its rows stand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 5))
    adapters = AdapterSet(model)
    weights = {name: {"0": low_rank(model[0]), "1": low_rank(model[1])} for name in "ab"}
    del weights["b"]["1"]  # an adapter need not change everything
    plain_calls: list[Tensor] = []
    for name, updates in weights.items():
        adapters.add(name, updates)
    x = torch.randn(1, len(names), 8)

    def expected(row: Tensor, name: str | None) -> Tensor:
        for path, linear in (("0", model[0]), ("1", model[1])):
            update = weights[name].get(path) if name else None
            more = 0 if update is None else update.up @ (update.down @ row) * update.scaling
            row = linear.weight @ row + linear.bias + more
        return row

    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *rest: plain_calls.append(rest[0]) or linear(*rest))
    with torch.no_grad():
        base = torch.stack([expected(row, None) for row in x[0]])
        with adapters.selected(names):
            found = model(x)[0]
        wanted = torch.stack([expected(row, name) for row, name in zip(x[0], names, strict=True)])
        torch.testing.assert_close(found, wanted)
        used = {name for name in names if name}
        assert len(plain_calls) == 2 + sum(2 for name, path in product(used, "01") if path in weights[name])
        torch.testing.assert_close(model(x)[0], base)
