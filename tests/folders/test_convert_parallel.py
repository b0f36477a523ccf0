"""Tensor parallelism through the stock GLM form: two processes generate the tokens that one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_folders import base_folder

from chatglm.folders.convert import to_glm

WORKER = Path(__file__).with_name("tensor_parallel_worker.py")


def start(folder: Path, rank: int, ranks: int, port: int) -> subprocess.Popen[str]:
    distributed = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": str(port)}
    if ranks > 1:
        environment |= {key: str(value) for key, value in distributed.items()}
    command = [sys.executable, str(WORKER), str(folder), str(ranks)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


@pytest.mark.slow
def test_two_processes_generate_the_tokens_of_one(tmp_path: Path) -> None:
    folder = to_glm(base_folder(tmp_path / "official"), tmp_path / "glm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = result(start(folder, 0, 1, port))
    both = [result(process) for process in [start(folder, rank, 2, port) for rank in range(2)]]
    for found in both:
        assert 2 * found["rows"] == alone["rows"]
        assert found["tokens"] == alone["tokens"]
        torch.testing.assert_close(torch.tensor(found["logits"]), torch.tensor(alone["logits"]), atol=3e-5, rtol=2e-5)
