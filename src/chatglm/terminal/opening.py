"""From the options of a command to a session: what can be checked is checked first, then the model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatglm.errors import RequestError, UsageError

if TYPE_CHECKING:
    from chatglm.agent.actions import Ask
    from chatglm.agent.session import Session
    from chatglm.engine.request import SamplingParams
    from chatglm.terminal.workbench import Workbench

EMBEDDED = "tiny-glm"  # what the embedded model is called
LARGEST_SEED = 2**63 - 1
Loaded = tuple[Any, Any]  # an engine, and the tokenizer of its model
Load = Callable[[argparse.Namespace], Loaded]


@dataclass(frozen=True)
class Wishes:
    """The sampling options, checked.

    Attributes:
        params: how tokens are chosen.
        max_new_tokens: of one turn.
        max_length: of conversation and answer.
    """

    params: SamplingParams
    max_new_tokens: int | None
    max_length: int | None


def wishes_of(options: argparse.Namespace) -> Wishes:
    """The sampling options; those not given are the official ones.

    Raises:
        UsageError: a value no sampler can use, or options that contradict each other.
    """
    from chatglm.engine.request import SamplingParams

    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    idle = [name for name in ("temperature", "top_p", "top_k") if name in given]
    if options.greedy and idle and given != {"temperature": 0}:
        told = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UsageError(f"--greedy always takes the likeliest token, so {told} would do nothing; leave one out")
    chosen = {"temperature": 0.8, "top_p": 0.8, "seed": options.seed} | given
    try:
        params = SamplingParams(**chosen)
    except RequestError as error:
        name, _, rest = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {rest}") from None
    for name in ("max_new_tokens", "max_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1 token")
    if options.seed is not None and not 0 <= options.seed <= LARGEST_SEED:
        raise UsageError(f"--seed is {options.seed}; it must be from 0 to {LARGEST_SEED}")
    if options.greedy or params.temperature == 0:
        params = SamplingParams(temperature=0, repetition_penalty=params.repetition_penalty, seed=options.seed)
    return Wishes(params, options.max_new_tokens, options.max_length)


def open_session(
    options: argparse.Namespace, wishes: Wishes, loaded: Loaded, bench: Workbench, ask: Ask, *, refuse: bool = True
) -> Session:
    """A session with the loaded model and what lies on the workbench.

    Args:
        refuse: whether a conversation that does not fit is refused; else its oldest turns are left out.
    """
    from chatglm.agent.opening import context_of
    from chatglm.agent.session import Session

    engine, tokenizer = loaded
    most = context_of(engine, None)
    return Session(
        engine,
        tokenizer,
        system=getattr(options, "system", None),
        tools=bench.tools,
        sandbox=bench.sandbox,
        params=wishes.params,
        max_new_tokens=wishes.max_new_tokens,
        max_seconds=None,
        on_dangerous=ask,
        context_length=min(most, wishes.max_length or most),
        when_full="refuse" if refuse else "cut",
    )


def load_model(options: argparse.Namespace) -> Loaded:
    """The engine and the tokenizer of the model that the options name.

    Raises:
        ChatGLMError: see `chatglm.loading.load`.
    """
    from chatglm.bare_loading import load_for_engine
    from chatglm.own_engine import engine_for

    model, tokenizer = load_for_engine(options, bars=False)  # bars are for downloads, which take minutes
    return engine_for(model, tokenizer), tokenizer
