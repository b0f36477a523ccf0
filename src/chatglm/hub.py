"""From a model name to a folder on this machine, through the Hugging Face hub or ModelScope.

Only one weight format is fetched: `.safetensors` where the repository has them, else `.bin`. Progress bars, resuming
and checksums are the hub libraries' own. No code of a repository is ever fetched to be run.
"""

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from chatglm.errors import HubError, MissingExtraError

HUBS = ("huggingface", "modelscope")
HUB_VARIABLE = "CHATGLM_HUB"
_OWNERS = {"huggingface": "THUDM", "modelscope": "ZhipuAI"}  # who publishes the official models there
# `tokenization_chatglm.py` is only read as text: it tells the generations apart.
_SMALL_FILES = ["*.json", "*.model", "*.txt", "tokenization_chatglm.py"]
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin")

Download = Callable[[str, str | None, list[str]], str]


def resolve(name_or_folder: str | Path, *, hub: str | None = None, revision: str | None = None) -> Path:
    """The folder of a model, downloaded when it is a hub name and not yet on this machine.

    Args:
        name_or_folder: a folder, "owner/model", or the bare name of an official model ("chatglm3-6b").
        hub: "huggingface" or "modelscope"; by default what the variable CHATGLM_HUB says, else "huggingface".
            Official models are found under both hubs' owner names.
        revision: branch, tag or commit.

    Raises:
        HubError: no such folder, no such model, or no connection; says what was tried and what else can be done.
        MissingExtraError: ModelScope is asked for and not installed.
    """
    name = str(name_or_folder)
    if not name.strip():
        raise HubError(f"the model's name is {name!r}; it must be a folder or a hub name like owner/model")
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.suffix == ".gguf":
        raise HubError(
            f"{name!r} is a GGUF file, which llama.cpp and its relatives run; give the model folder it was made of"
        )
    if folder.exists():
        raise HubError(f"{name!r} is a file; give the folder it lies in ({str(folder.parent)!r})")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise HubError(
            f"no folder {name!r} on this machine, and it is no hub name either (those look like owner/model)"
        )
    hub = choose_hub(hub)
    repository = hub_name(name, hub)
    download = _from_modelscope if hub == "modelscope" else _from_huggingface
    return _fetch(repository, revision, download)


def choose_hub(hub: str | None = None) -> str:
    """The hub asked for, else the one of the variable CHATGLM_HUB, else "huggingface".

    Raises:
        HubError: a hub this package does not know.
    """
    chosen = hub or os.environ.get(HUB_VARIABLE) or HUBS[0]
    if chosen not in HUBS:
        origin = "hub" if hub else HUB_VARIABLE
        raise HubError(f"{origin} is {chosen!r}; it must be one of {', '.join(HUBS)}")
    return chosen


def hub_name(name: str, hub: str) -> str:
    """The name of an official model as `hub` has it; other names stay as they are."""
    owner, _, model = name.rpartition("/")
    if owner in ("", *_OWNERS.values(), "zai-org") and "chatglm" in model.lower():
        return f"{_OWNERS[hub]}/{model}"
    return name


def _fetch(repository: str, revision: str | None, download: Download) -> Path:
    """First the small files, which say what weights there are, then the weights in one format."""
    folder = Path(download(repository, revision, _SMALL_FILES))
    indexed = [pattern for pattern in _WEIGHT_PATTERNS if any(folder.glob(f"{pattern}.index.json"))]
    for pattern in indexed[:1] or _WEIGHT_PATTERNS:
        folder = Path(download(repository, revision, [*_SMALL_FILES, pattern]))
        if any(folder.glob(pattern)):
            return folder
    raise HubError(f"{repository} has no weights ({' or '.join(_WEIGHT_PATTERNS)}); found {_listing(folder)}")


def _from_huggingface(repository: str, revision: str | None, patterns: list[str]) -> str:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return str(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (OSError, HFValidationError) as error:  # every error of the library but the one on names is an OSError
        offline = " HF_HUB_OFFLINE is set, so nothing was asked." if constants.HF_HUB_OFFLINE else ""
        raise HubError(_advice(repository, f"the Hugging Face hub ({constants.ENDPOINT})", error) + offline) from error


def _from_modelscope(repository: str, revision: str | None, patterns: list[str]) -> str:
    try:
        modelscope = importlib.import_module("modelscope")
    except ImportError as error:
        raise MissingExtraError("modelscope", "modelscope", "Looking models up on ModelScope") from error
    try:
        return str(modelscope.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the library raises its own classes and those of requests
        raise HubError(_advice(repository, "ModelScope", error)) from error


def _advice(repository: str, hub: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    return (
        f"there is no folder {repository!r} here, no complete copy in the cache, and {hub} cannot give it: "
        f"{type(error).__name__}: {reason[:200]}\n"
        "What helps: give the path of a folder that holds the model; "
        f"try the other hub with --hub or {HUB_VARIABLE}={HUBS[1] if 'Face' in hub else HUBS[0]}; "
        "name a mirror of the Hugging Face hub in HF_ENDPOINT; check the connection and the name."
    )


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:20]) or "an empty folder"
