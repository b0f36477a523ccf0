"""Registers our classes with transformers' Auto classes, at no cost until somebody uses them.

Importing the Auto classes takes about two seconds and brings torch, so `import chatglm` must not do it. Instead
`install()` puts a finder in front of `sys.meta_path` that notices when one of transformers' three auto modules has
been imported, and registers ours then; where they are loaded already, at once. The import system does the loading as
always: the finder only adds a step after it. Nothing else in the process is touched.

Importing ours imports parts of transformers, and those may import an auto module in turn; so a registration waits until
none of our modules, and none of the modules they need, is in the middle of being loaded.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatglm.model.storage import SmallerWeights

_AUTO = "transformers.models.auto."


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from chatglm.model.family import FamilyConfig

    AutoConfig.register("chatglm", FamilyConfig, exist_ok=True)


def _register_tokenizer() -> None:
    from transformers import PreTrainedConfig
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    from chatglm.model.tokenizer import ChatGLMTokenizer
    from chatglm.model.v1.tokenizer import ChatGLM1Tokenizer

    # Registered under a configuration nobody has: found by its class name alone. Under ChatGLMConfig, transformers
    # would prefer a folder's own tokenizer code to ours whenever trust_remote_code=True.
    by_name_only = type("ChatGLMTokenizerByName", (PreTrainedConfig,), {"model_type": "chatglm-tokenizer"})
    AutoTokenizer.register(by_name_only, tokenizer_class=ChatGLMTokenizer, exist_ok=True)
    first = type("ChatGLM1TokenizerByName", (PreTrainedConfig,), {"model_type": "chatglm1-tokenizer"})
    AutoTokenizer.register(first, tokenizer_class=ChatGLM1Tokenizer, exist_ok=True)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    from chatglm.model import network
    from chatglm.model.config import ChatGLMConfig
    from chatglm.model.v1.config import ChatGLM1Config
    from chatglm.model.v1.network import ChatGLM1ForConditionalGeneration

    # The official AutoModel gives the class that has .chat(), so ours must as well.
    for auto in ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        getattr(modeling_auto, auto).register(ChatGLMConfig, network.ChatGLMForConditionalGeneration, exist_ok=True)
        getattr(modeling_auto, auto).register(ChatGLM1Config, ChatGLM1ForConditionalGeneration, exist_ok=True)
    modeling_auto.AutoModelForSequenceClassification.register(
        ChatGLMConfig, network.ChatGLMForSequenceClassification, exist_ok=True
    )


# (module of transformers, what to do when it is there)
_REGISTRATIONS: tuple[tuple[str, Callable[[], None]], ...] = (
    (_AUTO + "configuration_auto", _register_config),
    (_AUTO + "tokenization_auto", _register_tokenizer),
    (_AUTO + "modeling_auto", _register_models),
)
_OURS = "chatglm.model."
# What our modules import; in some releases these import an auto module themselves.
_NEEDED = frozenset(
    f"transformers.{name}"
    for name in ("modeling_layers", "modeling_utils", "modeling_outputs", "cache_utils", "masking_utils", "generation")
)


def _smaller_weights() -> "SmallerWeights":
    from chatglm.quant import files

    return files


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself; adds a step after the loading of transformers' auto modules, of our own, and of what ours
    need."""

    def __init__(self) -> None:
        self.loading: set[str] = set()
        self.pending = dict(_REGISTRATIONS)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        watched = fullname in self.pending or fullname in _NEEDED or fullname.startswith(_OURS)
        if fullname in self.loading or not watched:
            return None
        self.loading.add(fullname)  # so that the search below passes over this finder
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.loading.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterLoading(spec.loader, self)
        return spec

    def register(self) -> None:
        """Make the registrations whose auto module is there, unless something they need is being loaded."""
        if any(name.startswith(_OURS) or name in _NEEDED for name in self.loading):
            return
        for name in list(self.pending):
            if name in sys.modules and name not in self.loading and (register := self.pending.pop(name, None)):
                register()


class _AfterLoading(importlib.abc.Loader):
    """Loads through the module's own loader, then tells the watcher."""

    def __init__(self, loader: importlib.abc.Loader, watcher: _Watcher) -> None:
        self.loader, self.watcher = loader, watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader  # inspect, pickle and linecache look here
        self.watcher.loading.add(name)
        try:
            self.loader.exec_module(module)
        finally:
            self.watcher.loading.discard(name)
        self.watcher.register()


def install() -> None:
    """Tell `chatglm.model` where quantized weights are known, and watch for transformers' auto modules; register at
    once where they are loaded already. Idempotent."""
    from chatglm.model import storage

    storage.provide(_smaller_weights)
    if any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        return
    watcher = _Watcher()
    sys.meta_path.insert(0, watcher)
    watcher.register()
