"""The thread pool: shared by callers, gone in a child, asleep when idle. Processes of their own, where it matters."""

import subprocess
import threading

import pytest
import torch
from native_levels import needs_kernels, threads
from test_native_products import as_native, packed_weight

from chatglm import native
from chatglm.errors import ConfigError
from chatglm.quant.scheme import QuantScheme

pytestmark = needs_kernels
INT4 = QuantScheme.parse("int4")

PRELUDE = """
import os, threading, time, torch, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork of a process with threads
from chatglm import native
from chatglm.quant.kernels.ops import native_weight
from chatglm.quant.packing import pack, quantize
from chatglm.quant.scheme import QuantScheme
scheme = QuantScheme.parse("int4")
packed = pack(*quantize(torch.randn(512, 256), scheme), 256, scheme)
weight = native_weight(packed.values, packed.scales, packed.zeros, None, 512, 256, 4, 32)
native.set_num_threads(2)
torch.set_num_threads(1)  # its own threads do not survive a fork
few, many = torch.randn(1, 256), torch.randn(200, 256)
expected = native.linear(weight, few), native.linear(weight, many)
"""

FORK = """
ending = False
def work():
    while not ending:
        native.linear(weight, many)
busy = threading.Thread(target=work)
busy.start()
for _ in range(6):
    child = os.fork()
    if child == 0:
        native_ok = all(torch.equal(native.linear(weight, x), y) for x, y in zip((few, many), expected))
        os._exit(0 if native_ok and native.num_threads() == 2 else 3)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
ending = True
busy.join()
assert torch.equal(native.linear(weight, few), expected[0])
"""

IDLE = """
time.sleep(0.2)
before = time.process_time()
time.sleep(0.3)
used = time.process_time() - before
assert used < 0.03, f"{used:.3f} s of processor time in 0.3 s of doing nothing"
"""


@pytest.mark.parametrize("script", [FORK, IDLE], ids=["fork", "idle"])
def test_in_a_process_of_its_own(script: str, python: list[str]) -> None:
    command = [*python, "-c", PRELUDE + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_callers_take_turns() -> None:
    weight = as_native(packed_weight(300, 128, INT4, 1), INT4)
    states = [torch.randn(tokens, 128, generator=torch.Generator().manual_seed(tokens)) for tokens in (1, 5, 40)]
    expected = [native.linear(weight, each) for each in states]
    wrong: list[int] = []

    def work(which: int) -> None:
        for turn in range(30):
            index = (which + turn) % 3
            if not torch.equal(native.linear(weight, states[index]), expected[index]):
                wrong.append(index)

    with threads(2):
        callers = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        for caller in callers:
            caller.start()
        for count in (3, 1, 2):  # the pool is replaced between two calls
            native.set_num_threads(count)
        for caller in callers:
            caller.join()
    assert not wrong


def test_the_number_of_threads() -> None:
    with threads(1):
        for count in (3, 1, 2, 2, 5, 1):
            native.set_num_threads(count)
            assert native.num_threads() == count
        for refused in (0, -1, 1025, 2**32 + 1, 1.5, None):
            with pytest.raises(ConfigError, match="1 to 1024"):
                native.set_num_threads(refused)  # type: ignore[arg-type]
        assert native.num_threads() == 1
