"""Where the golden data lies: a small committed copy always, the full set when it stands beside the repository."""

from pathlib import Path

COMMITTED = Path(__file__).parent / "golden"
FULL = Path(__file__).resolve().parents[2] / "shared" / "golden"
REAL_TOKENIZER = FULL.parent / "tokenizer" / "tokenizer.model"


def golden_roots() -> list[Path]:
    """Every golden root that exists, the full one first."""
    return [root for root in (FULL, COMMITTED) if root.is_dir()]


def golden_file(relative: str) -> Path:
    """The fullest existing copy of one golden file or folder."""
    for root in golden_roots():
        if (root / relative).exists():
            return root / relative
    raise FileNotFoundError(f"no golden copy of {relative} under {[str(root) for root in golden_roots()]}")


def golden_cases(family: str) -> list[str]:
    """Names of all case folders of a family (the union over the roots)."""
    found = {path.name for root in golden_roots() for path in (root / family).glob("*") if path.is_dir()}
    return sorted(found)
