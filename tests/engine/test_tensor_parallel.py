"""The exported GLM form, its layers shared by two processes: the engine of each gives the tokens of one."""

import json
import os
import subprocess
import sys

import pytest

from chatglm.engine.request import SamplingParams
from chatglm.folders.convert import convert
from chatglm.loading import demo_folder, load
from chatglm.own_engine import engine_for

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7], [100, 200, 300]]
PROGRAM = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from chatglm.engine.config import EngineConfig
from chatglm.engine.engine import Engine
from chatglm.engine.request import SamplingParams

plan = DistributedConfig(tp_plan="auto")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], distributed_config=plan, dtype=torch.float32).eval()
engine = Engine(model, EngineConfig(kv_memory=50_000_000))
answers = engine.generate(json.loads(sys.argv[2]), SamplingParams(temperature=0, max_tokens=20))
weight = model.model.layers[0].mlp.down_proj.weight
shares = weight.to_local().numel() / weight.numel()
told = {"share": shares, "ids": [answer.token_ids for answer in answers]}
open(f"{sys.argv[3]}/{torch.distributed.get_rank()}.json", "w").write(json.dumps(told))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_tokens_of_one(tmp_path):
    convert(demo_folder(), tmp_path / "glm", to="glm")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = [str(tmp_path / "program.py"), str(tmp_path / "glm"), json.dumps(PROMPTS), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *given], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    model, tokenizer = load(dtype="float32")
    alone = engine_for(model, tokenizer).generate(PROMPTS, SamplingParams(temperature=0, max_tokens=20))
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told["share"] == 0.5
        assert told["ids"] == [list(answer.token_ids) for answer in alone]
