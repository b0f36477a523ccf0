"""The SentencePiece vocabulary as GGUF files list it, so that llama.cpp gives the same ids.

llama.cpp joins pieces by score, whatever they are: a token spelled `sop` would be found in "sophisticated". So `sop`
and `eop` are written `<sop>` and `<eop>`, as in the stock GLM form. Markers in a text become special tokens only where
the program that calls llama.cpp asks for it (`parse_special`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm.errors import CheckpointError
from chatglm.folders.fast_tokenizer import SPECIAL_TOKENS, read_added_tokens, stock_tokenizer
from chatglm.model.vocabulary import ROLE_TOKENS, Vocabulary

# Token types of the GGUF format.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Tokens:
    """Every id's spelling, score and type, and the ids with a part to play (name of the GGUF key to id)."""

    spellings: list[str]
    scores: list[float]
    types: list[int]
    roles: dict[str, int]

    def add_to(self, writer: Any, chat_template: str) -> None:
        """Write them into a gguf.GGUFWriter."""
        writer.add_tokenizer_model("llama")  # SentencePiece BPE with byte fallback
        writer.add_tokenizer_pre("chatglm-spm")
        writer.add_token_list(self.spellings)
        writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        for name, token_id in self.roles.items():
            getattr(writer, f"add_{name}_token_id")(token_id)
        writer.add_add_bos_token(False)  # texts begin with [gMASK] <sop>, which the chat template writes
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(True)
        writer.add_chat_template(chat_template)


def read_tokens(folder: Path, size: int, *, roles: bool = True) -> Tokens:
    """The tokens of a folder's tokenizer, those that were added included, padded with unused ones to `size`.

    Args:
        folder: holds `tokenizer.model` and, for added tokens, `tokenizer_config.json`.
        size: rows of the embedding.
        roles: the role tokens of ChatGLM3 are among them. `<|user|>` and `<|observation|>` then end an answer.

    Raises:
        CheckpointError: no such file, rules llama.cpp does not have, or more tokens than the embedding has rows.
    """
    model_file = folder / "tokenizer.model"
    vocabulary = Vocabulary.from_file(model_file, role_tokens=roles)
    _check_rules(model_file, roles)
    added = _added_tokens(folder, roles)
    beyond = [token for token_id, token in added.items() if token_id >= vocabulary.n_words]
    if (count := vocabulary.n_words + len(beyond)) > size:
        raise CheckpointError(
            f"{model_file} has {count} tokens, the model's embedding {size} rows; they must come from one release"
        )
    specials = SPECIAL_TOKENS + (ROLE_TOKENS if roles else ())
    pieces, first = vocabulary.sp_model, vocabulary.sp_size
    spellings = [pieces.id_to_piece(index) for index in range(first)]
    spellings += [*specials, *(token.content for token in beyond)]
    if len(set(spellings)) != len(spellings):
        doubled = next(name for name in spellings[first:] if spellings.count(name) > 1)
        raise CheckpointError(
            f"{model_file} has a piece spelled {doubled!r}, like a special token; llama.cpp takes one"
        )
    unused = size - len(spellings)
    types = [_type(pieces, index) for index in range(first)] + [_CONTROL] * len(specials) + [_UNUSED] * len(beyond)
    for token_id, token in added.items():
        types[token_id] = _CONTROL if token.special else _USER_DEFINED
    ends = (
        {"eot": first + specials.index("<|user|>"), "eom": first + specials.index("<|observation|>")} if roles else {}
    )
    return Tokens(
        spellings + [f"[PAD{len(spellings) + index}]" for index in range(unused)],
        [pieces.get_score(index) for index in range(first)] + [0.0] * (size - first),
        types + [_UNUSED] * unused,
        {
            "bos": vocabulary.bos_id,
            "eos": vocabulary.eos_id,
            "unk": vocabulary.pad_id,
            "pad": vocabulary.pad_id,
            **ends,
        },
    )


def _added_tokens(folder: Path, roles: bool) -> dict[int, Any]:
    """llama.cpp finds them in texts as they are written, and leaves the blanks around them alone."""
    added = read_added_tokens(folder, roles=roles)
    for token in added.values():
        if options := [name for name in ("lstrip", "rstrip", "single_word") if getattr(token, name)]:
            raise CheckpointError(
                f"the added token {token.content!r} of {folder} has {options[0]} set, which llama.cpp's tokenizer does "
                "not know; add it without, or convert to glm"
            )
    return added


def _check_rules(model_file: Path, roles: bool) -> None:
    """A tokenizers file takes the same rules as llama.cpp: blanks marked, one in front, pieces joined by score."""
    try:
        stock_tokenizer(model_file, roles=roles)
    except CheckpointError as error:
        raise CheckpointError(f"{model_file} has rules that llama.cpp's tokenizer does not follow ({error})") from error


def _type(pieces: Any, index: int) -> int:
    if pieces.is_unknown(index):
        return _UNKNOWN
    if pieces.is_control(index):
        return _CONTROL
    if pieces.is_byte(index):
        return _BYTE
    return _UNUSED if pieces.is_unused(index) else _NORMAL
