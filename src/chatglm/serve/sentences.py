"""A sentence-transformers model for `/v1/embeddings`, beside the model that chats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatglm.errors import ConfigError, MissingExtraError
from chatglm.hub import resolve
from chatglm.serve.errors import ApiError, wrong

_AT_ONCE = 32  # texts; between so many another request has its turn, and one whose client has left ends
_OWN = "sentence_transformers."


class SentenceModel:
    """Vectors of texts.

    Args:
        name: a folder in the form of sentence-transformers, or its hub name.
        hub: where hub names are looked up.

    Raises:
        ConfigError: it is no such model. HubError: it is not there. MissingExtraError: the library is not.
    """

    def __init__(self, name: str, hub: str | None = None) -> None:
        folder = resolve(name, hub=hub)
        _check(folder)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtraError("sentence-transformers", "embeddings", "--embedding-model") from None
        try:
            self._model: Any = SentenceTransformer(str(folder), trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ConfigError(f"--embedding-model {name!r} cannot be loaded: {error}") from None
        self.name = Path(name).name
        self._one_at_a_time = asyncio.Lock()

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, those that the model puts around it included.

        Raises:
            ApiError: 400, a text that is empty, or longer than the model reads; nothing is cut silently.
        """
        if "" in texts:
            raise wrong("input", "input has an empty text; every text needs at least one character")
        counts = [len(ids) for ids in self._model.tokenizer(list(texts), truncation=False)["input_ids"]]
        most = self._model.max_seq_length
        if most is not None and max(counts) > most:
            message = f"(context_length_exceeded) {self.name} reads {most} tokens of a text; one has {max(counts)}"
            raise ApiError(400, message, code="context_length_exceeded", param="input")
        return counts

    async def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """One for each text, in their order; computed beside the event loop."""
        made: list[list[float]] = []
        for start in range(0, len(texts), _AT_ONCE):
            async with self._one_at_a_time:
                part = list(texts[start : start + _AT_ONCE])
                made += (await asyncio.to_thread(self._model.encode, part, show_progress_bar=False)).tolist()
        return made


def _check(folder: Path) -> None:
    """The library would run code that a folder brings: only its own modules are let through."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8-sig"))
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--embedding-model is {str(folder)!r}; it must be a sentence-transformers model, whose modules.json can "
            f"be read ({error})"
        ) from None
    foreign = next((kind for kind in kinds if not kind.startswith(_OWN)), None)
    if foreign is not None:
        raise ConfigError(
            f"--embedding-model {str(folder)!r} has a module {foreign!r} of its own, whose code is not run"
        )
