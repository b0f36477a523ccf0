"""Networks that give a text one of some labels: a base with the official classification head, made and loaded again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import logging

from chatglm import hub as hubs
from chatglm.errors import CheckpointError, ConfigError
from chatglm.loading import demo_folder, load_tokenizer, parse_device, progress_bar_if_long
from chatglm.model.config import ChatGLMConfig
from chatglm.model.family import read_any_config
from chatglm.model.files import read_json, write_json
from chatglm.model.network import ChatGLMForSequenceClassification
from chatglm.model.plain_config import RopeRatioMeaning
from chatglm.train.methods import import_peft, quiet_peft

if TYPE_CHECKING:
    from chatglm.model.tokenizer import ChatGLMTokenizer

LABELS_FILE = "labels.json"  # beside an adapter, which has no configuration of the network
_ADAPTER = "adapter_config.json"


def new_classifier(
    folder: Path,
    labels: Sequence[str],
    dtype: torch.dtype | str,
    device: torch.device,
    seed: int = 0,
    rope_ratio_meaning: RopeRatioMeaning | None = None,
) -> ChatGLMForSequenceClassification:
    """The network of a base with a new head, whose weights are drawn by `seed`; full weights, however they are stored.

    Raises:
        ConfigError: the base is a ChatGLM-6B. CheckpointError: it is damaged.
    """
    config = read_any_config(
        folder, **({} if rope_ratio_meaning is None else {"rope_ratio_meaning": rope_ratio_meaning})
    )
    if not isinstance(config, ChatGLMConfig):
        raise ConfigError(f"{folder} is a ChatGLM-6B, which has no classification head; take a ChatGLM2 or ChatGLM3")
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn that the head is new
    try:
        torch.manual_seed(seed)
        with progress_bar_if_long(folder):
            model = ChatGLMForSequenceClassification.from_pretrained(
                folder, config=config, dtype=dtype, dequantize=True
            )
    finally:
        logging.set_verbosity(before)
    made: ChatGLMForSequenceClassification = model.to(device)
    return made


def load_classifier(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    rope_ratio_meaning: RopeRatioMeaning | None = None,
) -> tuple[ChatGLMForSequenceClassification, "ChatGLMTokenizer"]:
    """What `chatglm finetune --task classify` wrote, ready to use; of an adapter it is part of the weights.

    Args:
        folder: an adapter or a whole model.
        base: of an adapter, where it is no longer where it was.
        dtype, device: as for `chatglm.load`.
        rope_ratio_meaning: of an adapter's base, likewise.

    Raises:
        CheckpointError: the folder holds no classifier. HubError: the base is not found.
    """
    folder, place = hubs.resolve(folder), parse_device(device)
    if not (folder / _ADAPTER).is_file():
        config = read_any_config(folder)
        if config.architectures != [ChatGLMForSequenceClassification.__name__]:
            raise CheckpointError(
                f"{folder} holds {config.architectures}; a {ChatGLMForSequenceClassification.__name__} is needed"
            )
        with progress_bar_if_long(folder):
            model = ChatGLMForSequenceClassification.from_pretrained(folder, dtype=dtype)
        return model.to(place).eval(), load_tokenizer(folder)
    if not (folder / LABELS_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {LABELS_FILE}; it is an adapter for answers, which `chatglm.load` loads"
        )
    known = read_json(folder / _ADAPTER).get("base_model_name_or_path") if base is None else base
    where = hubs.resolve(known or demo_folder())
    network = new_classifier(where, read_labels(folder), dtype, place, rope_ratio_meaning=rope_ratio_meaning)
    with quiet_peft():
        tuned = import_peft("Loading a classifier").PeftModel.from_pretrained(network, str(folder))
        return tuned.merge_and_unload().eval(), load_tokenizer(where)


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    """The labels in order of their numbers, beside an adapter."""
    write_json(folder / LABELS_FILE, {"labels": list(labels)})


def read_labels(folder: Path) -> list[str]:
    """What `write_labels` wrote.

    Raises:
        CheckpointError: it is something else.
    """
    labels = read_json(folder / LABELS_FILE).get("labels")
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(name, str) for name in labels):
        raise CheckpointError(f"{folder / LABELS_FILE} holds {labels!r:.80}; it must be a list of two names or more")
    return labels
