"""`ice_text.model` with what lies around it: line breaks, tabs and blanks as pieces, and ids of images before all.

The special tokens are pieces of the file. Blanks that SentencePiece would drop are spelled as pieces of their own.
"""

import re
from pathlib import Path
from typing import Any

from chatglm.chat.message import check_encodable
from chatglm.errors import CheckpointError
from chatglm.model.files import refuse_pointer
from chatglm.model.vocabulary import load_pieces

FILE = "ice_text.model"
_RUN = re.compile(" {2,}")
_SPELLED = re.compile(r"<n>|<\|tab\|>|<\|blank_(\d+)\|>")
_LONGEST_RUN = 80
SPECIALS = ("[MASK]", "[gMASK]", "<sop>", "<eop>")


class FirstVocabulary:
    """Text to ids and back.

    Args:
        path: an `ice_text.model`.
        num_image_tokens: ids before those of the pieces; 20000 in the releases before April 2023.

    Raises:
        CheckpointError: there is no such file, or it is not that of ChatGLM-6B.
    """

    def __init__(self, path: str | Path, num_image_tokens: int = 0) -> None:
        try:
            refuse_pointer(Path(path))
            content = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"the tokenizer file {str(path)!r} cannot be read: {error.strerror}") from None
        try:
            self.pieces: Any = load_pieces(content)
        except CheckpointError as error:
            raise CheckpointError(f"{str(path)!r}: {error}") from None
        self.num_image_tokens = num_image_tokens
        self.size: int = self.pieces.get_piece_size() + num_image_tokens
        if missing := [name for name in SPECIALS if self.id_of(name) == self.id_of("<unk>")]:
            raise CheckpointError(
                f"{path} lacks the pieces {', '.join(missing)}; the tokenizer of ChatGLM-6B is the ice_text.model of "
                "April 2023 and later, which reads older folders too"
            )

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids that stand for no text, by their names."""
        inside = range(self.size - self.num_image_tokens)
        control = (piece for piece in inside if self.pieces.is_control(piece) or self.pieces.is_unknown(piece))
        return {str(self.pieces.id_to_piece(piece)): piece + self.num_image_tokens for piece in control}

    def spelled(self, text: str) -> str:
        """The text with line breaks, tabs and runs of blanks as pieces."""
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        return _RUN.sub(lambda run: _spelled_run(len(run[0])), text)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; never a special token.

        Raises:
            PromptError: the text holds a lone surrogate, which has no bytes.
        """
        check_encodable(text, "the text")
        return [piece + self.num_image_tokens for piece in self.pieces.encode(self.spelled(text))]

    def tokenize(self, text: str) -> list[str]:
        """The same as pieces."""
        check_encodable(text, "the text")
        return list(self.pieces.encode(self.spelled(text), out_type=str))

    def decode(self, pieces: list[str]) -> str:
        """The text of pieces."""
        text = str(self.pieces.decode(pieces)) if pieces else ""
        return _SPELLED.sub(_blanks, text)

    def id_of(self, piece: str) -> int:
        """Of what is no piece, the id of the unknown one."""
        if match := re.fullmatch(r"<image_(\d+)>", piece):
            return int(match[1])
        return int(self.pieces.piece_to_id(piece)) + self.num_image_tokens

    def piece_of(self, token_id: int) -> str:
        """The piece of an id, `<image_5>` for one of an image.

        Raises:
            IndexError: there is none.
        """
        if token_id < self.num_image_tokens:
            return f"<image_{token_id}>"
        if token_id >= self.size:
            raise IndexError(f"token id {token_id} is outside the vocabulary of {self.size} ids")
        return str(self.pieces.id_to_piece(token_id - self.num_image_tokens))

    def surface(self, token_id: int) -> str | int:
        """What an id adds to a text: characters with `BLANK` for blanks, or one byte; nothing for control pieces."""
        if not self.num_image_tokens <= token_id < self.size:
            return ""
        inside = token_id - self.num_image_tokens
        if self.pieces.is_control(inside):
            return ""
        if self.pieces.is_unknown(inside):
            return " \u2047 "
        piece = self.piece_of(token_id)
        if self.pieces.is_byte(inside):
            return int(piece[1:-1], 16)
        match = _SPELLED.fullmatch(piece)
        return piece if match is None else _blanks(match)


def _spelled_run(length: int) -> str:
    """Blanks as pieces, the longest first; one left over stays a blank."""
    whole, rest = divmod(length, _LONGEST_RUN)
    return f"<|blank_{_LONGEST_RUN}|>" * whole + (f"<|blank_{rest}|>" if rest > 1 else " " * rest)


def _blanks(match: re.Match[str]) -> str:
    if match[1] is not None:
        return " " * int(match[1]) if 2 <= int(match[1]) <= _LONGEST_RUN else match[0]
    return "\n" if match[0] == "<n>" else "\t"
