"""What a training run is asked to do, checked before anything heavy is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from chatglm.errors import ConfigError
from chatglm.train.sources import Kind

Method = Literal["lora", "dora", "rslora", "qlora", "dpo", "ptuning", "sft"]
Task = Literal["answers", "classify"]
METHODS: tuple[Method, ...] = get_args(Method)
TASKS: tuple[Task, ...] = get_args(Task)
_RATES = {"ptuning": 2e-2, "sft": 2e-5, "dpo": 1e-5}  # of the other methods: 2e-4
_PLACES = ("base", "data", "out", "eval_data", "device", "hub", "skip_memory_check", "keep", "log_steps", "save_steps")
# What may be another when a run is resumed: how long it is, and what decides no weight.
CHANGEABLE = (*_PLACES, "max_steps", "epochs", "max_hours", "save_minutes", "eval_steps", "eval_answers", "eval_tokens",
    "eval_batch_size",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """One run. Also the keys of a configuration file of our own.

    Attributes:
        base: folder or hub name of the model; None: the embedded one.
        data: file or folder of rows; `eval_data`: those it is measured on.
        out: folder to write.
        method: what is trained; dpo: a LoRA adapter, on pairs of answers of which one is preferred.
        task: what is learned: answers, or to give a text one of some labels (a head of its own on the network).
        max_steps: updates; `epochs` (3 where neither is given): passes over the data.
        learning_rate: the highest; None: 2e-4, for ptuning 2e-2, for sft 2e-5, for dpo 1e-5.
        batch_size: rows of a step on one device; `accumulation` such steps make an update.
        max_length: tokens at which a row is cut, and which a packed row has.
        packing: lay several examples into a row.
        columns: of question, answer and history, where rows name them in their own way.
        rank, alpha, dropout, targets: of LoRA, and which linear layers have it. No dropout given: 0.1; none
            for dpo, where it would change how the answers of a pair compare.
        beta: of dpo: how dear it is to leave the base.
        prefix_length, prefix_projection: of P-Tuning v2.
        quantize: scheme of the base; qlora takes int4 by itself.
        rope_ratio_meaning: for bases that set rope_ratio and do not tell, as for `chatglm.load`.
        dtype: of the base; None: float32 for small models, else bfloat16.
        pretrain: every token of a text counts; `fresh`: from new weights.
        eval_answers: evaluation rows whose answers are generated and compared; of at most `eval_tokens` tokens.
        max_hours: the run ends in order after so long; it can be resumed. `save_minutes`: checkpoints by time.
        trainer: more arguments of transformers' TrainingArguments.
    """

    data: str
    out: str
    base: str | None = None
    eval_data: str | None = None
    columns: str | None = None
    method: Method = "lora"
    task: Task = "answers"
    max_steps: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int = 4
    accumulation: int = 1
    max_length: int = 2048
    packing: bool = False
    skip_bad_rows: bool = False
    seed: int = 42
    rank: int = 8
    alpha: float = 32
    dropout: float | None = None
    targets: tuple[str, ...] = ("query_key_value",)
    beta: float = 0.1
    prefix_length: int = 128
    prefix_projection: bool = False
    quantize: str | None = None
    dtype: str | None = None
    device: str | None = None
    hub: str | None = None
    rope_ratio_meaning: Literal["base", "position"] | None = None
    checkpointing: bool = False
    optimizer: str = "adamw_torch"
    schedule: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    log_steps: int = 10
    save_steps: int = 500
    eval_steps: int = 500
    eval_batch_size: int = 8
    eval_answers: int = 0
    eval_tokens: int = 512
    keep: int = 2
    fresh: bool = False
    max_hours: float | None = None
    save_minutes: float | None = None
    skip_memory_check: bool = False
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.method not in METHODS:
            raise ConfigError(f"method is {self.method!r}; it must be one of: {', '.join(METHODS)}")
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; it must be one of: {', '.join(TASKS)}")
        for name in _WHOLE:
            self._check(name, int, least=_LEAST.get(name, 1))
        for name in ("learning_rate", "epochs", "max_hours", "save_minutes", "alpha", "beta", "clip"):
            self._check(name, (int, float), above=0)
        for name in ("dropout", "weight_decay"):
            self._check(name, (int, float), least=0)
        if self.dropout is not None and self.dropout >= 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be less than 1")
        if self.method == "dora" and self.quantize is not None:
            raise ConfigError("dora needs full weights; leave out quantize, or take the method qlora")
        if self.method == "sft" and self.quantize is not None:
            raise ConfigError("sft changes the weights themselves; leave out quantize, or take the method qlora")
        if not self.targets or not all(isinstance(name, str) and name for name in self.targets):
            raise ConfigError(f"targets are {self.targets!r}; they must name linear layers, such as query_key_value")
        if self.fresh and self.method != "sft":
            raise ConfigError(f"new weights are all trained; the method is {self.method!r}, it must be 'sft'")
        self._check_kind()

    def _check_kind(self) -> None:
        """What is not done for pairs of answers, and for labels."""
        labels = self.task == "classify"
        if labels and self.method not in _FOR_LABELS:
            raise ConfigError(
                f"the method is {self.method!r}; to classify is learned by one of: {', '.join(_FOR_LABELS)}"
            )
        if labels and self.quantize is not None:
            raise ConfigError("a network that classifies has full weights; leave out quantize")
        if not labels and self.method != "dpo":
            return
        what = "task is classify" if labels else "method is dpo"
        for name in ("packing", "eval_answers"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, which has no meaning where the {what}; leave it out"
                )

    def _check(self, name: str, kind: Any, least: float | None = None, above: float | None = None) -> None:
        value = getattr(self, name)
        if value is None and name in _OPTIONAL:
            return
        bound = f"at least {least}" if above is None else f"more than {above}"
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if wrong or not (value >= least if above is None else value > above):
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name} is {value!r}; it must be {what}, {bound}")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return _RATES.get(self.method, 2e-4) if self.learning_rate is None else self.learning_rate

    @property
    def kind(self) -> Kind:
        """What rows have to hold."""
        return "pairs" if self.method == "dpo" else "labels" if self.task == "classify" else "answers"

    @property
    def lora_dropout(self) -> float:
        """Share of LoRA's inputs that is left out by chance."""
        return (0.0 if self.method == "dpo" else 0.1) if self.dropout is None else self.dropout

    @property
    def rows_at_once(self) -> int:
        """Rows that go through the network in one step on one device: pairs have two."""
        return self.batch_size * (2 if self.kind == "pairs" else 1)

    @property
    def scheme(self) -> str | None:
        """How the base is quantized."""
        return "int4" if self.method == "qlora" and self.quantize is None else self.quantize

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "targets": list(self.targets)}


_WHOLE = (
    "max_steps", "batch_size", "accumulation", "max_length", "seed", "rank", "prefix_length", "warmup_steps",
    "log_steps", "save_steps", "eval_steps", "eval_batch_size", "eval_answers", "eval_tokens", "keep",
)  # fmt: skip
_LEAST = {"seed": 0, "warmup_steps": 0, "eval_answers": 0, "max_length": 8}
_FOR_LABELS = ("lora", "dora", "rslora", "sft")
_OPTIONAL = ("max_steps", "epochs", "learning_rate", "dropout", "max_hours", "save_minutes")
NAMES = tuple(one.name for one in fields(Settings))
