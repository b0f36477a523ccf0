"""Golden data of ChatGLM-6B, the first generation: a small committed copy, and the full set beside the repository."""

import json
from pathlib import Path
from typing import Any

import golden_data

COMMITTED = golden_data.COMMITTED / "v1"
FULL = golden_data.FULL.parent / "golden_v1"
REAL_TOKENIZER = golden_data.FULL.parent / "tokenizer_v1" / "ice_text.model"


def golden_file(relative: str) -> Path:
    """The fullest existing copy of one golden file or folder."""
    for root in (FULL, COMMITTED):
        if (root / relative).exists():
            return root / relative
    raise FileNotFoundError(f"no golden copy of {relative} under {FULL} or {COMMITTED}")


def golden_json(relative: str) -> Any:
    return json.loads(golden_file(relative).read_text(encoding="utf-8"))


def golden_cases(family: str) -> list[str]:
    """Names of all case folders of a family."""
    found = {path.name for root in (FULL, COMMITTED) for path in (root / family).glob("*") if path.is_dir()}
    return sorted(found)
