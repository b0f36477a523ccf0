"""Quantizing takes the memory of the result: pages of mapped files are given back, and nothing else is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.initialization import no_init_weights

from chatglm.model.config import ChatGLMConfig
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.mapped import release

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def of_files() -> int:
    found = re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_pages_of_a_file_go_and_what_was_written_stays(tmp_path: Path) -> None:
    save_file({"a": torch.arange(4_000_000, dtype=torch.float32)}, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        mapped = opened.get_tensor("a")
    assert float(mapped.sum()) > 0
    mapped[2_000_000] = -1.0
    release(torch.ones(100_000))  # its code is mapped from files, too
    before = of_files()
    release(mapped)
    assert before - of_files() > 13_000_000
    assert (float(mapped[2_000_000]), float(mapped[1_999_999]), float(mapped[-1])) == (-1.0, 1_999_999.0, 3_999_999.0)


def test_memory_that_is_no_files_is_left_alone() -> None:
    own = torch.full((1_000_000,), 7.0)
    release(own)
    release(own[::2])
    assert bool((own == 7).all())


PEAK = """
import re, sys, threading, torch
from chatglm.model.network import ChatGLMForConditionalGeneration
from chatglm.quant.hf import PackedConfig
torch.set_num_threads(1)
def now(): return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, peak, done = now(), [0], threading.Event()
def watch():
    while not done.wait(0.002): peak[0] = max(peak[0], now())
thread = threading.Thread(target=watch); thread.start()
options = {"quantization_config": PackedConfig("int4")} if sys.argv[2] == "load" else {}
model = ChatGLMForConditionalGeneration.from_pretrained(sys.argv[1], **options)
if not options: model.quantize("int4")
done.set(); thread.join()
print(peak[0] - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 190 MB of weights."""
    config = ChatGLMConfig(
        num_layers=4, hidden_size=1024, ffn_hidden_size=4096, kv_channels=64, num_attention_heads=16,
        padded_vocab_size=16384, multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True,
    )  # fmt: skip
    with no_init_weights():  # drawing them takes seconds
        model = ChatGLMForConditionalGeneration(config).bfloat16()
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    folder = tmp_path_factory.mktemp("large")
    model.save_pretrained(folder, max_shard_size="50MB")
    return folder


@pytest.mark.parametrize("way", ["load", "call"])
def test_memory_holds_the_result_and_one_matrix(way: str, large: Path, python: list[str]) -> None:
    size = sum(path.stat().st_size for path in large.glob("*.safetensors"))
    done = subprocess.run([*python, "-c", PEAK, str(large), way], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # int4 with 8-bit ends, the embedding, and what imports and the allocator keep: below the full weights alone.
    assert int(done.stdout) < 0.42 * size + 34e6 + 65e6 < size
