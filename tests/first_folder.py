"""A whole official folder of the first generation: tiny weights and the tokenizer they were recorded with."""

import shutil
from pathlib import Path

from golden_v1 import golden_file


def first_folder(target: Path) -> Path:
    """Weights, config.json, ice_text.model and tokenizer_config.json, ready to chat."""
    target.mkdir(parents=True, exist_ok=True)
    for source in (golden_file("generation/model"), golden_file("tiny_tokenizer")):
        for path in source.iterdir():
            shutil.copyfile(path, target / path.name)
    return target
