"""Other programs on the same shapes: llama.cpp through its own `llama-bench`, OpenVINO through its Python package."""

import json
import statistics
import subprocess
import time
from dataclasses import dataclass

SHAPES = ((4608, 4096), (4096, 4096), (27392, 4096), (4096, 13696))  # linears of a layer: outputs, inputs


@dataclass(frozen=True)
class Llama:
    """llama.cpp: the program `llama-bench` and a file of the same shapes."""

    program: str
    model: str
    threads: int

    def decode(self, context: int) -> float:
        """Tokens a second after a context, its key/value cache in float16."""
        return self._rate("-p", "0", "-n", "24", "-d", str(context))

    def prefill(self, length: int) -> float:
        """Prompt tokens a second."""
        return self._rate("-p", str(length), "-n", "0")

    def _rate(self, *arguments: str) -> float:
        command = [self.program, "-m", self.model, "-t", str(self.threads), "-r", "1", "-o", "json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(json.loads(done.stdout)[-1]["avg_ts"])


def openvino_linears(length: int, threads: int) -> float:
    """Tokens a second of the four linears of 28 layers: u4 in groups of 128, activations quantized likewise."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    random = np.random.default_rng(0)
    seconds = 0.0
    for rows, columns in SHAPES:
        shape = (rows, columns // 128, 128)
        weight = ops.constant(random.integers(0, 15, shape, dtype=np.uint8), dtype=ov.Type.u4)
        centred = ops.subtract(ops.convert(weight, np.float16), ops.constant(np.float16(8)))
        scale = ops.constant(np.full((*shape[:2], 1), 0.003, np.float16))
        full = ops.reshape(ops.multiply(centred, scale), ops.constant(np.array([rows, columns])), False)
        states = ops.parameter([-1, columns], np.float32)
        product = ops.matmul(states, ops.convert(full, np.float32), False, True)
        options = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "128", "INFERENCE_NUM_THREADS": str(threads)}
        request = ov.Core().compile_model(ov.Model([product], [states]), "CPU", options).create_infer_request()
        inputs = {0: random.standard_normal((length, columns), dtype=np.float32)}
        times = []
        for _ in range(6):
            begin = time.perf_counter()
            request.infer(inputs)
            times.append(time.perf_counter() - begin)
        seconds += statistics.median(times[1:])
    return length / (28 * seconds)
