"""What runs on a tiny base share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_base

from chatglm.train import telling


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads wait for one another longer than these steps take; the picture, drawn in other tests, costs more too."""
    monkeypatch.setattr(telling, "draw", lambda *_: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "model")
