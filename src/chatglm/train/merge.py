"""An adapter made part of its base: `chatglm merge`."""

import shutil
from pathlib import Path
from typing import Any

from chatglm import hub as hubs
from chatglm.folders.disk import check_target, new_folder
from chatglm.loading import demo_folder, load
from chatglm.model.plain_config import RopeRatioMeaning
from chatglm.train.classifier import LABELS_FILE, load_classifier

_BESIDE = (
    "tokenizer.model",
    "ice_text.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def merge(
    base: str | Path | None,
    adapter: str | Path,
    target: str | Path,
    *,
    hub: str | None = None,
    rope_ratio_meaning: RopeRatioMeaning | None = None,
) -> Path:
    """Write the base with the adapter inside, in the number format the base is stored in; quantized bases in full.

    A LoRA is added to the weights, up to their rounding. A P-Tuning prefix cannot be: it is stored beside them, as
    the official training code did, and belongs to the folder from then on. What gives labels stays a classifier.

    Raises:
        CheckpointError: the adapter is not of this base; the target holds a model. HubError: a name leads nowhere.
    """
    folder = demo_folder() if base is None else hubs.resolve(base, hub=hub)
    target = Path(target)
    check_target(folder, target)
    options: dict[str, Any] = {"dequantize": True, "hub": hub, "rope_ratio_meaning": rope_ratio_meaning}
    if (Path(adapter) / LABELS_FILE).is_file():
        model, _ = load_classifier(
            adapter, base=folder, dtype="auto", device="cpu", rope_ratio_meaning=rope_ratio_meaning
        )
    else:
        model, _ = load(folder, adapter=adapter, merge_adapter=True, dtype="auto", device="cpu", **options)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    with new_folder(target, needed) as part:
        model.save_pretrained(part)
        for name in _BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, part / name)
    return target
