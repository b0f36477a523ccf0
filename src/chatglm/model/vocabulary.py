"""The SentencePiece model with the special tokens appended to it: pieces, ids and bytes, nothing of transformers.

The pieces come first, then five special tokens (ChatGLM2) or nine (ChatGLM3), which the file itself does not hold.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from chatglm.chat.message import check_encodable
from chatglm.errors import CheckpointError, PromptError
from chatglm.model.files import refuse_pointer

COMMON_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
BLANK = "\u2581"  # how pieces spell a blank
Offsets = list[tuple[int, int]]  # where pieces stand in a text

_PART = 3000  # characters; SentencePiece takes longer per character the longer the text is
_WORTH_THREADS = 50_000  # characters; starting threads costs as much as encoding some thousand


class Vocabulary:
    """Text to pieces and back. The names of the attributes are those of the official `SPTokenizer`.

    Args:
        model: the bytes of a `tokenizer.model` file.
        role_tokens: whether the four role tokens follow the five common ones (ChatGLM3) or not (ChatGLM2).

    Attributes:
        sp_model: the SentencePiece processor.
        n_words: number of ids that have a meaning.
        bos_id, eos_id, pad_id: 1, 2 and 0 (the unknown piece) in the official model.
        special_tokens: name to id of the appended tokens; `index_special_tokens` the other way round.

    Raises:
        CheckpointError: the bytes are no SentencePiece model.
    """

    def __init__(self, model: bytes, role_tokens: bool = True) -> None:
        self.sp_model: Any = load_pieces(model)
        self.sp_size: int = self.sp_model.get_piece_size()
        self.bos_id: int = self.sp_model.bos_id()
        self.eos_id: int = self.sp_model.eos_id()
        self.pad_id: int = self.sp_model.unk_id()
        names = COMMON_TOKENS + (ROLE_TOKENS if role_tokens else ())
        self.special_tokens: dict[str, int] = {name: self.sp_size + index for index, name in enumerate(names)}
        self.index_special_tokens = {token_id: name for name, token_id in self.special_tokens.items()}
        self.n_words: int = self.sp_size + len(names)
        self.prints_special_tokens = role_tokens  # ChatGLM2 decodes its special tokens to nothing
        self.role_special_token_expression = "|".join(map(re.escape, ROLE_TOKENS if role_tokens else ()))
        self._surfaces: dict[int, str | int] = {}
        self._no_breaks: bool | None = None

    @classmethod
    def from_file(cls, path: str | Path, role_tokens: bool = True) -> "Vocabulary":
        """Reads a `tokenizer.model`.

        Raises:
            CheckpointError: there is no such file, or it is no SentencePiece model; names the file.
        """
        try:
            refuse_pointer(Path(path))
        except OSError as error:
            raise CheckpointError(f"the tokenizer file {str(path)!r} cannot be read: {error.strerror}") from None
        try:
            return cls(Path(path).read_bytes(), role_tokens)
        except CheckpointError as error:
            raise CheckpointError(f"{str(path)!r}: {error}") from None

    def serialized(self) -> bytes:
        """The SentencePiece model as file content."""
        return bytes(self.sp_model.serialized_model_proto())

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of plain text; never a special token.

        Raises:
            PromptError: the text holds a lone surrogate, which has no bytes.
        """
        try:
            ids = self._encode_long(text) if len(text) > _PART else self.sp_model.encode(text)
        except (RuntimeError, UnicodeEncodeError, TypeError):
            if isinstance(text, str):
                check_encodable(text, "the text")
            raise
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def _encode_long(self, text: str) -> list[int]:
        """The same ids, part by part: no piece holds a line break, so none goes across one."""
        ids: list[int] = []
        start = 0
        while start < len(text):
            end = text.find("\n", start + _PART) if self._breaks_stand_alone() else -1
            end = len(text) if end < 0 else end
            part: list[int] = self.sp_model.encode(text[start:end])
            ids += part[1:] if start else part  # the dummy prefix, which stands alone before a line break
            start = end
        return ids

    def _breaks_stand_alone(self) -> bool:
        if self._no_breaks is None:
            own_prefix = self.sp_model.encode("\n")
            names = map(self.sp_model.id_to_piece, range(self.sp_size))
            single = len(own_prefix) == 2 and self.sp_model.id_to_piece(own_prefix[0]) == BLANK
            self._no_breaks = single and not any("\n" in name for name in names)
        return self._no_breaks

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each; much text goes to SentencePiece at once, which shares it among threads."""
        if sum(map(len, texts)) < _WORTH_THREADS:
            return [self.encode(text) for text in texts]
        try:
            ids: list[list[int]] = self.sp_model.encode(texts)
        except (RuntimeError, UnicodeEncodeError, TypeError):
            return [self.encode(text) for text in texts]  # says which text and why
        return ids

    def tokenize(self, text: str) -> list[str]:
        """Pieces of plain text.

        Raises:
            PromptError: see `encode`.
        """
        return [self.sp_model.id_to_piece(token_id) for token_id in self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids: each run between special tokens by itself, so each loses one leading blank.

        Raises:
            IndexError: an id that is neither a piece nor a special token this version prints.
        """
        if not self.prints_special_tokens:
            return self.decode_run(list(ids))
        text, run = "", list[int]()
        for token_id in ids:
            if token_id in self.index_special_tokens:
                text += self.decode_run(run) + self.index_special_tokens[token_id]
                run = []
            else:
                run.append(token_id)
        return text + self.decode_run(run)

    def decode_run(self, ids: list[int]) -> str:
        """Text of ids that are all pieces."""
        return str(self.sp_model.decode(ids)) if ids else ""

    def decode_tokens(self, tokens: list[str]) -> str:
        """Text of pieces; what is no piece (a special token) stands for itself."""
        return str(self.sp_model.decode(tokens)) if tokens else ""

    def convert_token_to_id(self, token: str) -> int:
        """Id of a special token or piece; of anything else that of the unknown piece."""
        if token in self.special_tokens:
            return self.special_tokens[token]
        return int(self.sp_model.piece_to_id(token))

    def convert_id_to_token(self, token_id: int) -> str:
        """The piece; "" for bos, eos, pad and what has no text, as the official files do.

        Raises:
            IndexError: of ChatGLM2, an id beyond its vocabulary (ChatGLM3 gives "").
        """
        if token_id in self.index_special_tokens:
            return self.index_special_tokens[token_id] if self.prints_special_tokens else ""
        if token_id < 0 or token_id in (self.bos_id, self.eos_id, self.pad_id):
            return ""
        if token_id >= self.sp_size:
            if self.prints_special_tokens:
                return ""
            raise IndexError(f"token id {token_id} is outside the ChatGLM2 vocabulary of {self.n_words} ids")
        return str(self.sp_model.id_to_piece(token_id))

    def surface(self, token_id: int) -> str | int:
        """What an id adds to a text: characters, or one byte (0 to 255) of a character spelled in bytes."""
        if token_id not in self._surfaces:
            inside = token_id < self.n_words
            token = self.convert_id_to_token(token_id) if inside else ""
            is_byte = 0 <= token_id < self.sp_size and self.sp_model.is_byte(token_id)
            if not inside:
                return ""  # not kept: there is no end of them
            self._surfaces[token_id] = int(token[1:-1], 16) if is_byte else token
        return self._surfaces[token_id]

    def offsets(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """Where each id of `encode(text)` stands in the text, as [begin, end) in characters; (0, 0) for the dummy
        prefix alone. The bytes of one character all have its place.

        Raises:
            PromptError: this SentencePiece model changes the text before it splits it.
        """
        surfaces = [self.surface(token_id) for token_id in ids]
        # The first byte of a character counts for it, the ones that go on (0b10......) for nothing.
        widths = [len(s) if isinstance(s, str) else int(not 0x80 <= s < 0xC0) for s in surfaces]
        place = len(text) - sum(widths)  # -1 with a dummy prefix
        if place not in (-1, 0):
            raise PromptError("offsets are not known: this SentencePiece model normalizes text before it splits it")
        found: list[tuple[int, int]] = []
        for width in widths:
            begin, place = (place, place + width) if width else (place - 1, place)
            found.append((max(begin, 0), max(place, 0)))
        return found

    def pieces(self) -> dict[str, int]:
        """Every piece and special token with its id; ids that no token leads to get a name of their own."""
        names = [self.sp_model.id_to_piece(token_id) for token_id in range(self.sp_size)]
        found = {name: token_id for token_id, name in enumerate(names)}
        found.update(self.special_tokens)
        if len(found) < self.n_words:  # a piece that is spelled like a special token
            reached = set(found.values())
            found.update({f"<unreachable {i}>": i for i in range(self.n_words) if i not in reached})
        return found


def load_pieces(model: bytes) -> Any:
    """The SentencePiece processor of a file's content.

    Raises:
        CheckpointError: it is no SentencePiece model.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(model) and processor.load_from_serialized_proto(model)
    except (RuntimeError, TypeError, OSError, ValueError) as error:
        raise CheckpointError(f"not a SentencePiece model: {error}") from None
    if not loaded:
        raise CheckpointError(f"not a SentencePiece model: {len(model)} bytes that could not be read")
    return processor
