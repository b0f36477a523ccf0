"""The helper process of `math_answers`: a question per line on standard input, a verdict per line on standard output.

The strings come from a model. They are read by math-verify's grammar for LaTeX; nothing here evaluates text.
"""

import json
import logging
import sys
from typing import Any

MEMORY = 2 * 2**30  # bytes of address space
CPU = 3600  # seconds over the whole life


def main() -> None:
    """Answers questions until standard input ends."""
    _limit()
    try:
        import math_verify  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        _tell({"ready": False})
        return
    logging.disable(logging.CRITICAL)
    _tell({"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        _tell(_verdict(math_verify, question["answer"], question["gold"]))


def _verdict(library: Any, answer: str, gold: list[str]) -> dict[str, Any]:
    given = _parsed(library, answer)
    if not given:
        return {"same": False, "why": "it cannot be read as mathematics"}
    same = any(library.verify(_parsed(library, right), given, timeout_seconds=None) for right in gold)
    return {"same": bool(same), "why": ""}


def _parsed(library: Any, text: str) -> list[Any]:
    text = text.strip().strip("$").strip()
    found: list[Any] = library.parse(
        f"${text}$", extraction_config=[library.LatexExtractionConfig()], parsing_timeout=None
    )
    return found


def _limit() -> None:
    """What a runaway expression may take, where the system has such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))


def _tell(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
