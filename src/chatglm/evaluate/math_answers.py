"""Whether two mathematical expressions are the same. math-verify judges, in a process of its own.

What a model writes may take sympy for ever, or all memory: the helper has limits, and is ended and started anew.
"""

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from chatglm.errors import GenerationError, MissingExtraError

PATIENCE = 10.0  # seconds for one answer
START = 120.0  # seconds until the helper is there, on a busy machine


class MathJudge:
    """Compares expressions in a helper process, which is started when first needed."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._helper: subprocess.Popen[bytes] | None = None

    def grade(self, answer: str, gold: tuple[str, ...]) -> tuple[float, str]:
        """1 or 0, and why: the same text, the same value, not the same, or no verdict in time."""
        if any(answer.strip() == right.strip() for right in gold):
            return 1.0, ""
        self.start()
        try:
            told = self._ask({"answer": answer[:2000], "gold": list(gold)}, self.patience)
        except TimeoutError:
            self.close()
            return 0.0, f"no verdict within {self.patience:g} s, counted as wrong"
        except EOFError:
            self.close()
            return 0.0, "the expression is too large to be compared, counted as wrong"
        return float(told["same"]), str(told["why"])

    def start(self) -> None:
        """Starts the helper if there is none.

        Raises:
            MissingExtraError: math-verify is not installed. GenerationError: the helper does not start.
        """
        if self._helper is not None:
            return
        command = [sys.executable, "-m", "chatglm.evaluate.math_helper"]
        self._helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        try:
            told = self._read(START)
        except (EOFError, TimeoutError) as error:
            self.close()
            raise GenerationError(f"the helper that compares formulas does not start: {error!r}") from None
        if not told["ready"]:
            self.close()
            raise MissingExtraError("math-verify", "evaluate", "comparing formulas")

    def close(self) -> None:
        """Ends the helper."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
            helper.communicate()

    def _ask(self, question: dict[str, Any], patience: float) -> dict[str, Any]:
        assert self._helper is not None
        assert self._helper.stdin is not None
        try:
            self._helper.stdin.write(json.dumps(question).encode() + b"\n")
            self._helper.stdin.flush()
        except OSError:
            raise EOFError from None
        return self._read(patience)

    def _read(self, patience: float) -> dict[str, Any]:
        """One line of the helper."""
        assert self._helper is not None
        assert self._helper.stdout is not None
        descriptor, line, until = self._helper.stdout.fileno(), b"", time.monotonic() + patience
        while not line.endswith(b"\n"):
            if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(descriptor, 65536)
            if not part:
                raise EOFError
            line += part
        told: dict[str, Any] = json.loads(line)
        return told
