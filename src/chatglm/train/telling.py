"""What a run says while it goes on, and the picture of its losses."""

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from chatglm.errors import MissingExtraError
from chatglm.words import Words, printable

CURVE_FILE = "loss.png"


def is_first() -> bool:
    """Whether this is the process, of several, that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str) -> None:
    """A line on standard error, once."""
    if is_first():
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


class Telling(TrainerCallback):
    """Lines on standard error: losses, evaluation, checkpoints, the time that is left."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.began, self.first = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began, self.first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            done = max(1, state.global_step - self.first)
            left = (time.monotonic() - self.began) / done * (state.max_steps - state.global_step)
            rate, loss = f"{logs['learning_rate']:.1e}", f"{logs['loss']:.4f}"
            step = {"step": state.global_step, "steps": state.max_steps}
            self._say("train_step", **step, loss=loss, rate=rate, left=_clock(left))
        elif "eval_loss" in logs:
            others = {name.removeprefix("eval_"): f"{value:.4f}" for name, value in logs.items() if name[:5] == "eval_"}
            self._say("train_eval", measured=", ".join(f"{name} {value}" for name, value in others.items()))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._say("train_saved", step=state.global_step)

    def _say(self, name: str, **values: object) -> None:
        sys.stderr.write(self.words(name, **values) + "\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class ByTime(TrainerCallback):
    """Checkpoints by wall time, and the end of a run after so many hours."""

    def __init__(self, save_minutes: float | None, max_hours: float | None) -> None:
        self.save_minutes, self.max_hours = save_minutes, max_hours
        self.began = self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        now = time.monotonic()
        if self.save_minutes is not None and now - self.saved > 60 * self.save_minutes:
            control.should_save, self.saved = True, now
        if self.max_hours is not None and now - self.began > 3600 * self.max_hours:
            control.should_save = control.should_training_stop = True
        return control


def boards() -> list[str]:
    """Where the Trainer reports to besides: TensorBoard, where it is installed."""
    return ["tensorboard"] if importlib.util.find_spec("tensorboard") is not None else []


def draw(history: list[dict[str, Any]], file: Path, title: str, unit: str = "learned token") -> None:
    """A picture of the losses, each the mean over `unit`s, over the steps.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "finetune", "Drawing the loss") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label, style in (("loss", "training", "-"), ("eval_loss", "evaluation", "o--")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel=f"loss a {unit}", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110)
