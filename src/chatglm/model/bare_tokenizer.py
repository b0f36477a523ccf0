"""BareTokenizer: the tokenizer for programs that only talk to an engine, without transformers.

`transformers.PreTrainedTokenizer` is half a second of imports. `ChatGLMTokenizer` is the tokenizer people get; both are
made of the same parts, and this one reads only folders in which they cannot differ.
"""

from pathlib import Path
from typing import Any

from chatglm.model.chat_format import ChatFormat, special_names_of
from chatglm.model.chat_templates import CHATGLM2_TEMPLATE, CHATGLM3_TEMPLATE, is_exact
from chatglm.model.files import read_json
from chatglm.model.tokenizer_version import VERSIONS, find_version
from chatglm.model.vocabulary import Vocabulary

_FILE = "tokenizer.model"
# Where transformers would find tokens that people added, or a template of their own.
_OTHER_FILES = ("added_tokens.json", "tokenizer.json", "chat_template.jinja", "additional_chat_templates")
_MAP = "special_tokens_map.json"  # lies in many folders and says nothing
# Settings of a tokenizer_config.json that change nothing of what an engine's programs ask for.
_WITHOUT_EFFECT = {
    "added_tokens_decoder", "additional_special_tokens", "auto_map", "backend", "chat_template",
    "clean_up_tokenization_spaces", "do_lower_case", "extra_special_tokens", "is_local", "model_input_names",
    "model_max_length", "name_or_path", "padding_side", "remove_space", "response_template", "tokenizer_class",
    "truncation_side", "use_fast", "version",
}  # fmt: skip


class BareTokenizer(ChatFormat):
    """Text to ids and back, prompts, and what ends an answer. No batches, no tensors, no tokens added by people.

    `stands_for`: the class of transformers that gives the same ids.

    Args:
        vocab_file: a `tokenizer.model`.
        version: "chatglm3" or "chatglm2".
    """

    stands_for = "ChatGLMTokenizer"

    def __init__(self, vocab_file: Path, version: str) -> None:
        vocabulary = Vocabulary.from_file(vocab_file, role_tokens=version == "chatglm3")
        self.use_vocabulary(vocabulary)
        self.vocab_file, self.version = str(vocab_file), version
        self._added_tokens_decoder: dict[int, Any] = {}
        self.encode_special_tokens = False
        self.special_tokens = special_names_of(vocabulary)
        self.all_special_ids = sorted(self._silent | set(vocabulary.special_tokens.values()))
        self.bos_token, self.eos_token = self._piece(vocabulary.bos_id), self._piece(vocabulary.eos_id)
        self.unk_token = self.pad_token = self._piece(vocabulary.pad_id)
        self.chat_template = CHATGLM3_TEMPLATE if version == "chatglm3" else CHATGLM2_TEMPLATE

    def __len__(self) -> int:
        return self.tokenizer.n_words

    def _piece(self, token_id: int) -> str:
        return str(self.tokenizer.sp_model.id_to_piece(token_id))

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """The ids of one text as a network is given them, under transformers' name for them: `input_ids`."""
        ids = self.encode_text(text)
        return {"input_ids": [*self.get_prefix_tokens(), *ids] if add_special_tokens else ids}

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        """The text of ids."""
        return self._decode(token_ids, skip_special_tokens)


def bare_tokenizer(folder: Path) -> BareTokenizer | None:
    """The tokenizer of a folder; None where something in it needs transformers to be understood.

    Raises:
        CheckpointError: a file is damaged.
    """
    if not (folder / _FILE).is_file() or any((folder / name).exists() for name in _OTHER_FILES):
        return None
    if (folder / _MAP).is_file() and read_json(folder / _MAP):
        return None
    config = folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {}
    version = settings.get("version") or find_version(folder, str(folder))
    if version not in VERSIONS or not is_exact(settings.get("chat_template")):
        return None
    tokenizer = BareTokenizer(folder / _FILE, version)
    return tokenizer if _says_nothing_new(settings, tokenizer) else None


def _says_nothing_new(settings: dict[str, Any], tokenizer: BareTokenizer) -> bool:
    """Whether the settings of a folder leave the tokenizer as it is by itself."""
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    if any(key in settings and settings[key] != getattr(tokenizer, key) for key in names):
        return False
    own = tokenizer.tokenizer.special_tokens
    more = [settings.get(key) or [] for key in ("additional_special_tokens", "extra_special_tokens")]
    if not all(isinstance(names, list) and all(name in own for name in map(str, names)) for names in more):
        return False
    added = settings.get("added_tokens_decoder") or {}
    if not all(key.isdigit() and int(key) in tokenizer.all_special_ids for key in added):
        return False
    return not settings.keys() - _WITHOUT_EFFECT - set(names)
