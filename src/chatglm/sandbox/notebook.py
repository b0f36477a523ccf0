"""What was run, as a Jupyter notebook."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from .result import Output, Result

_DROPPED = "the outputs of this cell were dropped: the notebook had become too large"


class History:
    """What was run and what came out.

    Args:
        limit: bytes of all outputs together; of more, the oldest are dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size, self._num_dropped = limit, 0, 0
        self._cells: list[tuple[str, Result]] = []

    def __iter__(self) -> Iterator[tuple[str, Result]]:
        return iter(self._cells)

    def add(self, code: str, result: Result) -> None:
        """One more cell."""
        self._cells.append((code, result))
        self._size += _size(result)
        while self._size > self._limit:
            code, result = self._cells[self._num_dropped]
            self._size -= _size(result)
            self._cells[self._num_dropped] = code, replace(result, outputs=(), notices=(_DROPPED,))
            self._num_dropped += 1


def _size(result: Result) -> int:
    return sum(len(output.text) + (len(output.image.data) if output.image else 0) for output in result.outputs)


def notebook(history: Iterable[tuple[str, Result]]) -> dict[str, Any]:
    """A notebook of format 4.5 with one cell per run."""
    cells = [_cell(number, code, result) for number, (code, result) in enumerate(history, 1)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip


def _cell(number: int, code: str, result: Result) -> dict[str, Any]:
    outputs = [_output(number, output) for output in result.outputs]
    remarks = [*result.notices, *([f"{result.status}: {result.reason}"] if result.reason else [])]
    if remarks:
        outputs.append({"output_type": "stream", "name": "stderr", "text": "".join(f"[{line}]\n" for line in remarks)})
    return {
        "cell_type": "code", "id": f"cell-{number}", "metadata": {}, "execution_count": number,
        "source": _encodable(code), "outputs": outputs,
    }  # fmt: skip


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _output(number: int, output: Output) -> dict[str, Any]:
    if output.kind in ("stdout", "stderr"):
        return {"output_type": "stream", "name": output.kind, "text": output.text}
    if output.kind == "error":
        lines = output.text.strip().splitlines() or [""]
        name, _, value = lines[-1].partition(": ")
        return {"output_type": "error", "ename": name, "evalue": value, "traceback": lines}
    data: dict[str, str] = {"text/plain": output.text}
    if output.image is not None:
        data[output.image.mime] = base64.b64encode(output.image.data).decode()
    if output.kind == "result":
        return {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": number}
    return {"output_type": "display_data", "data": data, "metadata": {}}
