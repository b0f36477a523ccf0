"""Configuration files: the official `lora.yaml`, `ptuning_v2.yaml`, `sft.yaml` as they are, and those of our own.

An official key either becomes a setting, or goes on to transformers' TrainingArguments, or is named as one that has no
meaning any more; none is swallowed.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, MissingExtraError
from chatglm.train.settings import NAMES

# Keys of training_args -> settings.
_SETTINGS = {
    "output_dir": "out",
    "max_steps": "max_steps",
    "num_train_epochs": "epochs",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "accumulation",
    "gradient_checkpointing": "checkpointing",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "max_grad_norm": "clip",
    "lr_scheduler_type": "schedule",
    "optim": "optimizer",
    "logging_steps": "log_steps",
    "save_steps": "save_steps",
    "save_total_limit": "keep",
    "eval_steps": "eval_steps",
    "seed": "seed",
}
_WITHOUT_MEANING = {
    "num_proc": "rows are read in one process",
    "dataloader_num_workers": "rows are tokenized before the first step",
    "remove_unused_columns": "a batch has no such columns",
    "log_level": "progress is told in every case",
    "task_type": "it follows from the method",
    "test_file": "evaluation uses val_file",
}
_LORA = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}
_PREFIX = {"num_virtual_tokens": "prefix_length", "prefix_projection": "prefix_projection"}
_POWER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_ALWAYS = {"save_strategy": ("steps",), "logging_strategy": ("steps",)}
_ANSWERS = 50  # evaluation rows whose answers the official program generates
_TOP = ("data_config", "max_input_length", "max_output_length", "training_args", "peft_config")


@dataclass
class Configuration:
    """Settings a file gives, and in words what of it has no meaning any more."""

    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, key: str, reason: str) -> None:
        self.notes.append(f"{key}: {reason}")


def read_configuration(path: str | Path, data: str | None = None) -> Configuration:
    """Settings out of a yaml file.

    Args:
        path: of the file.
        data: the folder of an official file's data files, as the first argument of the official program was; or the
            rows themselves, whatever the file says.

    Raises:
        ConfigError: no readable yaml, or a key that is not known. MissingExtraError: pyyaml is not installed.
    """
    path, found = Path(path), Configuration()
    whole = _read(path)
    for key, value in whole.items():
        if key in NAMES:
            found.settings[key] = _number(value)
        elif key not in _TOP:
            raise ConfigError(f"{path} has the key {key!r}{_nearest(key, (*NAMES, *_TOP))}")
        elif key.startswith("max_"):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{path}: {key} is {value!r}; it must be a whole number above 0")
        elif not isinstance(value, Mapping):
            raise ConfigError(f"{path}: {key} is {value!r:.60}; it must hold keys of its own")
    _lengths(whole, found)
    _data(whole.get("data_config", {}), data, path, found)
    _training(whole.get("training_args", {}), path, found)
    if "data_config" in whole or "training_args" in whole:
        _method(whole.get("peft_config"), path, found)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("pyyaml", "finetune", f"Reading {path}") from error
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{path} holds {found!r:.60}; it must hold keys and values")
    return found


def _lengths(whole: Mapping[str, Any], found: Configuration) -> None:
    if "max_input_length" in whole or "max_output_length" in whole:
        # One more than both, as the official program cuts.
        found.settings["max_length"] = whole.get("max_input_length", 256) + whole.get("max_output_length", 512) + 1


def _data(keys: Mapping[str, Any], folder: str | None, path: Path, found: Configuration) -> None:
    for key, value in keys.items():
        if key in _WITHOUT_MEANING:
            found.note(f"data_config.{key}", _WITHOUT_MEANING[key])
        elif key in ("train_file", "val_file") and folder is not None and not Path(folder).is_dir():
            found.note(f"data_config.{key}", f"the rows are those of {folder}")
        elif key in ("train_file", "val_file"):
            where = Path(folder) / str(value) if folder is not None else Path(str(value))
            found.settings["data" if key == "train_file" else "eval_data"] = str(where)
        else:
            raise ConfigError(f"{path}: data_config has the key {key!r}{_nearest(key, _DATA_KEYS)}")


_DATA_KEYS = ("train_file", "val_file", "test_file", "num_proc")


def _training(keys: Mapping[str, Any], path: Path, found: Configuration) -> None:
    evaluates = keys.get("evaluation_strategy", keys.get("eval_strategy", "steps"))
    for key, value in keys.items():
        where = f"training_args.{key}"
        if key in _SETTINGS:
            found.settings[_SETTINGS[key]] = _number(value)
        elif key in _WITHOUT_MEANING:
            found.note(where, _WITHOUT_MEANING[key])
        elif key == "use_cpu":
            found.settings.update({"device": "cpu"} if value else {})
        elif key == "predict_with_generate":
            found.settings["eval_answers"] = _ANSWERS if value else 0
        elif key == "generation_config":
            _generation(value, path, found)
        elif key in ("evaluation_strategy", "eval_strategy") or key in _ALWAYS:
            if value not in (*_ALWAYS.get(key, ("steps", "no")),):
                found.note(where, f"{value!r} is not done; it goes by steps")
        elif key == "deepspeed":
            file = path.parent / str(value)
            found.settings.setdefault("trainer", {})[key] = str(file if file.is_file() else value)
        elif key in _trainer_names():
            found.settings.setdefault("trainer", {})[key] = _number(value)
        else:
            raise ConfigError(f"{path}: training_args has the key {key!r}{_nearest(key, _trainer_names())}")
    if evaluates == "no":
        found.settings.pop("eval_data", None)


def _number(value: Any) -> Any:
    """YAML 1.1 takes 5e-5 for a text."""
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value


def _generation(value: Any, path: Path, found: Configuration) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: generation_config is {value!r:.60}; it must hold keys of its own")
    for key, one in value.items():
        if key == "max_new_tokens":
            found.settings["eval_tokens"] = one
        else:
            found.note(f"training_args.generation_config.{key}", "answers are generated greedily")


def _method(keys: Mapping[str, Any] | None, path: Path, found: Configuration) -> None:
    """A file without peft_config trains all weights."""
    kind = None if keys is None else keys.get("peft_type")
    known: Mapping[str, str]
    if kind is None:
        found.settings["method"], known = "sft", {}
    elif kind == "LORA":
        lora = keys or {}
        method = "dora" if lora.get("use_dora") else "rslora" if lora.get("use_rslora") else "lora"
        found.settings["method"], known = method, {**_LORA, "use_dora": "", "use_rslora": ""}
    elif kind == "PREFIX_TUNING":
        found.settings["method"], known = "ptuning", _PREFIX
    else:
        raise ConfigError(f"{path}: peft_type is {kind!r}; it must be LORA or PREFIX_TUNING")
    for key, value in (keys or {}).items():
        if key in _WITHOUT_MEANING:
            found.note(f"peft_config.{key}", _WITHOUT_MEANING[key])
        elif known.get(key):
            found.settings[known[key]] = tuple(value) if isinstance(value, list) else value
        elif key != "peft_type" and key not in known:
            raise ConfigError(f"{path}: peft_config has the key {key!r}{_nearest(key, tuple(known))}")


def _trainer_names() -> tuple[str, ...]:
    from transformers import TrainingArguments

    return tuple(one.name for one in fields(TrainingArguments))


def _nearest(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f", which is not known; did you mean {near[0]!r}?" if near else ", which is not known"
