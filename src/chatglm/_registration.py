"""Registers our classes with transformers' Auto classes, at no cost until somebody uses them.

Importing the Auto classes takes about two seconds and brings torch, so `import chatglm` must not do it. Instead
`install()` puts a finder in front of `sys.meta_path` that notices when one of transformers' three auto modules has
been imported, and registers ours then; where they are loaded already, at once. The import system does the loading as
always: the finder only adds a step after it. Nothing else in the process is touched.

Each registration needs two modules, one of transformers and one of ours, and either may import the other, so it is
made when the later of the two has finished loading.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_AUTO = "transformers.models.auto."


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from chatglm.model.config import ChatGLMConfig

    AutoConfig.register("chatglm", ChatGLMConfig, exist_ok=True)


def _register_tokenizer() -> None:
    from transformers import PreTrainedConfig
    from transformers.models.auto.tokenization_auto import AutoTokenizer

    from chatglm.model.tokenizer import ChatGLMTokenizer

    # Registered under a configuration nobody has: found by its class name alone. Under ChatGLMConfig, transformers
    # would prefer a folder's own tokenizer code to ours whenever trust_remote_code=True.
    by_name_only = type("ChatGLMTokenizerByName", (PreTrainedConfig,), {"model_type": "chatglm-tokenizer"})
    AutoTokenizer.register(by_name_only, tokenizer_class=ChatGLMTokenizer, exist_ok=True)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    from chatglm.model import network
    from chatglm.model.config import ChatGLMConfig

    # The official AutoModel gives the class that has .chat(), so ours must as well.
    for auto in ("AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        getattr(modeling_auto, auto).register(ChatGLMConfig, network.ChatGLMForConditionalGeneration, exist_ok=True)
    modeling_auto.AutoModelForSequenceClassification.register(
        ChatGLMConfig, network.ChatGLMForSequenceClassification, exist_ok=True
    )


# (module of transformers, module of ours, what to do when both are there)
_REGISTRATIONS: tuple[tuple[str, str, Callable[[], None]], ...] = (
    (_AUTO + "configuration_auto", "chatglm.model.config", _register_config),
    (_AUTO + "tokenization_auto", "chatglm.model.tokenizer", _register_tokenizer),
    (_AUTO + "modeling_auto", "chatglm.model.network", _register_models),
)
_WATCHED = {name for theirs, ours, _ in _REGISTRATIONS for name in (theirs, ours)}


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself; adds a step after the loading of the watched modules."""

    def __init__(self) -> None:
        self.loading: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WATCHED or fullname in self.loading:
            return None
        self.loading.add(fullname)  # so that the search below passes over this finder
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.loading.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterLoading(spec.loader, self)
        return spec

    def register_complete_pairs(self, finished: str) -> None:
        for theirs, ours, register in _REGISTRATIONS:
            if finished not in (theirs, ours) or theirs not in sys.modules or self.loading & {theirs, ours}:
                continue
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
        self.watcher.register_complete_pairs(name)


def install() -> None:
    """Watch for transformers' auto modules; register at once where they are loaded already. Idempotent."""
    if any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        return
    watcher = _Watcher()
    sys.meta_path.insert(0, watcher)
    for theirs, _, _ in _REGISTRATIONS:
        if theirs in sys.modules:
            watcher.register_complete_pairs(theirs)
