"""One training run from settings to a folder: `chatglm finetune` and `chatglm pretrain`."""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chatglm import hub as hubs
from chatglm.errors import ConfigError, MissingExtraError, TrainingError
from chatglm.folders.describe import describe
from chatglm.loading import demo_folder, load, load_tokenizer, parse_device
from chatglm.model.v1.config import ChatGLM1Config
from chatglm.train import fit, manifest, methods, telling
from chatglm.train.answers import UPSTREAM
from chatglm.train.classifier import new_classifier, write_labels
from chatglm.train.packing import Collator, LabelCollator, PairCollator
from chatglm.train.reading import evaluation_store, longest, read_store, rows_of
from chatglm.train.settings import Settings
from chatglm.train.sources import labels_in
from chatglm.train.store import Store
from chatglm.train.telling import is_first, say
from chatglm.words import Words

_UNITS = {"answers": "learned token", "pairs": "pair", "labels": "text"}  # what a loss is the mean over
_SMALL = 2 * 10**9  # bytes of a float32 copy that is no burden anywhere


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        out: the folder.
        steps: that are done.
        finished: False: its hours were over before.
        metrics: last measured.
        first: whether this process is the one of several that speaks.
    """

    out: Path
    steps: int
    finished: bool
    metrics: dict[str, float]
    first: bool = True


def finetune(settings: Settings, words: Words | None = None, *, resume: bool = False) -> Result:
    """Train, and write what was learned to `settings.out`.

    Args:
        settings: of the run.
        words: what is said on standard error; None: English.
        resume: go on with the run in the folder, from its last checkpoint, as if it had not stopped.

    Raises:
        DataError: rows that cannot be read, all named; none that is good. ConfigError: settings that contradict each
        other, the base or the run that is resumed; less memory than is needed. TrainingError: the loss is no number, or
        a checkpoint cannot be written. MissingExtraError: a package is not installed.
    """
    with _environment():
        return _finetune(settings, Words("en") if words is None else words, resume)


def _finetune(settings: Settings, words: Words, resume: bool) -> Result:
    _require(settings)
    out = _out_folder(settings, resume)
    folder = demo_folder() if settings.base is None else hubs.resolve(settings.base, hub=settings.hub)
    told = manifest.begin(folder, settings)
    if resume:
        manifest.check_same(out, told)
    tokenizer = load_tokenizer(folder)
    labels = labels_in(settings.data, settings.kind, settings.columns)
    train = read_store(settings.data, settings, tokenizer, out, words, labels)
    measured = evaluation_store(settings, tokenizer, out, words, labels)
    dtype = _dtype(settings, folder)
    info = describe(folder)
    if isinstance(info.config, ChatGLM1Config) and settings.packing:
        raise ConfigError("packing is not for ChatGLM-6B: each of its prompts sees itself both ways; leave it out")
    if isinstance(info.config, ChatGLM1Config) and settings.task == "classify":
        raise ConfigError("ChatGLM-6B has no classification head; take a ChatGLM2 or ChatGLM3 as the base")
    needed = fit.estimate(info, settings, dtype, longest(train, settings))
    say(words("train_memory", **needed.parts()))
    fit.check_fit(needed, settings)
    told["memory"] = needed.parts()
    trainer = _trainer(settings, out, _model(settings, folder, dtype, labels), train, measured, tokenizer, words)
    if not resume and is_first():
        manifest.write(out, told)
    return _run(trainer, settings, out, told, resume, labels)


@contextmanager
def _environment() -> Iterator[None]:
    """transformers tells accelerate by variables what is wanted; they are not for the next run of the process."""
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            if name.startswith(("ACCELERATE_", "FSDP_")):
                del os.environ[name]


def be_modest(threads: int | None, nice: int | None) -> None:
    """How much of the machine the process takes: CPU threads, and by how much its priority is lowered.

    Raises:
        ConfigError: no such number of threads, or a priority that is raised.
    """
    if threads is not None and threads < 1 or nice is not None and nice < 0:
        raise ConfigError(f"threads are {threads} and nice is {nice}; at least 1 and 0 are needed")
    if threads is not None:
        torch.set_num_threads(threads)
    if nice:
        os.nice(nice)


def _run(
    trainer: Any, settings: Settings, out: Path, told: dict[str, Any], resume: bool, labels: Sequence[str]
) -> Result:
    from chatglm.train.trainer import last_checkpoint

    last = last_checkpoint(out) if resume else None
    try:
        with methods.quiet_peft():
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    except ImportError as error:
        raise TrainingError(f"a package is missing for the optimizer {settings.optimizer}: {error}") from error
    finally:
        if is_first() and any("loss" in entry for entry in trainer.state.log_history):
            telling.draw(
                trainer.state.log_history,
                out / telling.CURVE_FILE,
                f"{settings.method}, {settings.data}",
                _UNITS[settings.kind],
            )
    state = trainer.state
    metrics = _last_metrics(trainer)
    try:
        trainer.save_model(str(out))
    except Exception as error:  # of several libraries
        whole = last_checkpoint(out)
        kept = "there is no checkpoint" if whole is None else f"{whole} is whole, and --resume writes from it"
        free = f"{shutil.disk_usage(out).free / 1e6:,.1f} MB are free on its disk"
        raise TrainingError(f"what was learned cannot be written to {out}: {error} ({free}); {kept}") from error
    finished = state.global_step >= state.max_steps
    if is_first():
        _beside(out, settings, trainer.language, labels)
        history = [entry for entry in state.log_history if "loss" in entry or "eval_loss" in entry]
        given = {"steps": state.global_step, "finished": finished, "metrics": metrics, "history": history}
        manifest.write(out, told | {"result": given})
    return Result(out, state.global_step, finished, metrics, is_first())


def _last_metrics(trainer: Any) -> dict[str, float]:
    """Those of the last step, measured if they were not."""
    if trainer.eval_dataset is None:
        return {}
    step = trainer.state.global_step
    known = [entry for entry in trainer.state.log_history if "eval_loss" in entry and entry["step"] == step]
    found = known[-1] if known else trainer.evaluate()
    return {name: value for name, value in found.items() if name.startswith("eval_")}


def _require(settings: Settings) -> None:
    asked = {"bitsandbytes": "bnb" in settings.optimizer, "deepspeed": "deepspeed" in settings.trainer}
    missing = next((name for name, wanted in asked.items() if wanted and not importlib.util.find_spec(name)), None)
    if missing is not None:
        what = f"the optimizer {settings.optimizer}" if missing == "bitsandbytes" else "training_args.deepspeed"
        raise ConfigError(f"{what} needs the package {missing}, which is not installed: pip install {missing}")
    for package in ("accelerate", "peft", "matplotlib"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, "finetune", "Training") from error


def _out_folder(settings: Settings, resume: bool) -> Path:
    out = Path(settings.out)
    begun = (out / manifest.FILE).is_file()
    if resume and not begun:
        raise ConfigError(f"{out} holds no run to resume; leave out --resume to begin one")
    if not resume and out.exists() and any(out.iterdir()) and is_first():
        what = "a run already; go on with it by --resume, or" if begun else "files already;"
        raise ConfigError(f"{out} holds {what} give a new folder as --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made: {error.strerror}") from error
    return out


def _dtype(settings: Settings, folder: Path) -> torch.dtype:
    if settings.dtype is not None:
        known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        if settings.dtype not in known:
            raise ConfigError(f"dtype is {settings.dtype!r}; one can train in float32 and bfloat16")
        return known[settings.dtype]
    info = describe(folder)
    if settings.method == "qlora" and parse_device(settings.device).type == "cpu":
        return torch.float32  # what is left beside quantized weights is small, and the kernels compute in it
    return torch.float32 if 4 * info.num_parameters < _SMALL else torch.bfloat16


def _model(settings: Settings, folder: Path, dtype: torch.dtype, labels: Sequence[str]) -> Any:
    from chatglm.quant.fused import unfuse

    place = parse_device(settings.device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", place.index or 0)))
    meaning = settings.rope_ratio_meaning
    if labels:
        return methods.prepare(new_classifier(folder, labels, dtype, place, settings.seed, meaning), settings)
    options: dict[str, Any] = {"quantize": settings.scheme, "cache": False, "rope_ratio_meaning": meaning}
    model, _ = load(folder, dtype=dtype, device=place, **options)
    unfuse(model)  # short ways through the layers are for answering
    return methods.prepare(model, settings)


def _trainer(
    settings: Settings, out: Path, model: Any, train: Store, measured: Store | None, tokenizer: Any, words: Words
) -> Any:
    from chatglm.train import kinds
    from chatglm.train.trainer import AnswerTrainer

    kind, collator = AnswerTrainer, Collator
    if settings.kind == "pairs":
        kind, collator = kinds.PairTrainer, PairCollator
    elif settings.kind == "labels":
        kind, collator = kinds.LabelTrainer, LabelCollator
    packed = settings.packing
    prefix = settings.prefix_length if settings.method == "ptuning" else 0
    callbacks: list[Any] = [telling.Telling(words), telling.ByTime(settings.save_minutes, settings.max_hours)]
    arguments = _arguments(settings, out, measured is not None)
    try:
        trainer = kind(
            settings,
            out,
            model=model,
            args=arguments,
            data_collator=collator(packed, prefix, places=not isinstance(model.config, ChatGLM1Config)),
            train_dataset=rows_of(train, settings, packed),
            eval_dataset=None if measured is None else rows_of(measured, settings),
            language=tokenizer,
            callbacks=callbacks,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f"transformers refuses the arguments of the run: {error}") from error
    if (arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true") and not trainer.is_fsdp_enabled:
        raise ConfigError(
            "fsdp is asked for, and accelerate divides a model among accelerators only; the device is "
            f"{arguments.device}. Leave it out: each process then holds the whole model"
        )
    if settings.eval_answers and not all(importlib.util.find_spec(name) for name in UPSTREAM):
        say(words("train_no_rouge"))
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: Settings, out: Path, measures: bool) -> Any:
    from transformers import TrainingArguments

    cuda = parse_device(settings.device).type == "cuda"
    given: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": settings.max_steps if settings.max_steps is not None else -1,
        "num_train_epochs": settings.epochs or 3.0,
        "learning_rate": settings.rate,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.eval_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "optim": settings.optimizer,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip,
        "logging_steps": settings.log_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "eval_strategy": "steps" if measures else "no",
        "eval_steps": settings.eval_steps,
        "report_to": telling.boards(),
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": cuda,
        "use_cpu": parse_device(settings.device).type == "cpu",
        "log_level": "error",
        "ddp_find_unused_parameters": False,
    }
    try:
        arguments = TrainingArguments(**{**given, **settings.trainer})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"transformers refuses the arguments of the run: {error}") from error
    if cuda and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        arguments._n_gpu = 1  # several devices are for several processes: torchrun, accelerate launch
    return arguments


def _beside(out: Path, settings: Settings, tokenizer: Any, labels: Sequence[str]) -> None:
    """A whole model needs its tokenizer to be loaded; an adapter takes that of its base, which has no labels."""
    if settings.method == "sft":
        tokenizer.save_pretrained(out)
    elif labels:
        write_labels(out, labels)
