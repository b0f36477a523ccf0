"""Text to ids and back straight on SentencePiece, without transformers: what all our tokenizers have in common."""

from typing import Any

from chatglm.errors import PromptError
from chatglm.model.marked_text import MarkedText, special_names
from chatglm.model.vocabulary import Offsets, Vocabulary


class Pieces:
    """Mixin of `PieceTokenizer` (for transformers) and `BareTokenizer`; both call `use_vocabulary` first of all."""

    tokenizer: Vocabulary
    _added_tokens_decoder: dict[int, Any]  # tokens, the model's own and others, that came from files or from people
    all_special_ids: list[int]

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Begin with a vocabulary; nothing is recognised in texts yet."""
        self.tokenizer = vocabulary
        self._silent = frozenset((vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id))  # decode to nothing
        self._added: dict[int, Any] = {}  # tokens people added: id to AddedToken
        self._added_seen = -1
        self._marked: MarkedText | None = None

    # Text to ids

    @property
    def encode_special_tokens(self) -> bool | str:
        """Whether the spelling of a special token in a text becomes the token: False, True or "roles", "all"."""
        return self._encode_special_tokens

    @encode_special_tokens.setter
    def encode_special_tokens(self, mode: bool | str) -> None:
        special_names(self.tokenizer.special_tokens, mode)
        self._encode_special_tokens = mode
        self._added_seen = -1  # what is looked for is worked out anew

    def _looked_for(self) -> MarkedText | None:
        """What is recognised in texts; None for nothing. Follows tokens that were added meanwhile."""
        if self._added_seen != len(self._added_tokens_decoder):
            self._added_seen = len(self._added_tokens_decoder)
            own = self._silent.union(self.tokenizer.index_special_tokens)
            self._added = {i: token for i, token in self._added_tokens_decoder.items() if i not in own}
            names = special_names(self.tokenizer.special_tokens, self._encode_special_tokens)
            tokens = {name: self.tokenizer.special_tokens[name] for name in names}
            self._marked = MarkedText(tokens, self._added) if tokens or self._added else None
        return self._marked

    def encode_text(self, text: str, plain: bool = False) -> list[int]:
        """Ids of one text without the prefix; `plain`: no special token is recognised, whatever the settings."""
        marked = None if plain else self._looked_for()
        return self.tokenizer.encode(text) if marked is None else marked.encode(text, self.tokenizer.encode)

    def encode_texts(self, texts: list[str], plain: bool = False) -> list[list[int]]:
        """`encode_text` of each."""
        if len(texts) > 1 and (plain or self._looked_for() is None):
            return self.tokenizer.encode_batch(texts)
        return [self.encode_text(text, plain) for text in texts]

    def text_offsets(self, text: str, ids: list[int], plain: bool = False) -> Offsets:
        """Where the ids of a text stand in it.

        Raises:
            PromptError: special tokens are recognised in texts.
        """
        if not plain and self._looked_for() is not None:
            raise PromptError("offsets are not known while special or added tokens are recognised in texts")
        return self.tokenizer.offsets(text, ids)

    def get_prefix_tokens(self) -> list[int]:
        """`[gMASK] sop`, with which every input begins."""
        return [self.tokenizer.special_tokens["[gMASK]"], self.tokenizer.special_tokens["sop"]]

    def get_end_tokens(self) -> list[int]:
        """The end-of-text token, with which a pair ends."""
        return [self.tokenizer.eos_id]

    # Ids to text

    def surface(self, token_id: int) -> str | int:
        """What an id adds to a text; see `Vocabulary.surface`. For `StreamDecoder`."""
        self._looked_for()
        return str(self._added[token_id].content) if token_id in self._added else self.tokenizer.surface(token_id)

    def _spelling(self, token_id: int) -> str:
        """The piece or name of an id, special tokens of ChatGLM2 included."""
        name = self.tokenizer.index_special_tokens.get(token_id)
        return self._convert_id_to_token(token_id) if name is None else name

    def _convert_id_to_token(self, index: int) -> str:
        self._looked_for()
        return str(self._added[index].content) if index in self._added else self.tokenizer.convert_id_to_token(index)

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else self._silent
        vocabulary = self.tokenizer
        if ids and min(ids) >= 0 and max(ids) < vocabulary.sp_size and skipped.isdisjoint(ids):
            return vocabulary.decode_run(ids)
        self._looked_for()
        added, spelled = self._added, vocabulary.convert_id_to_token
        tokens = ["" if i in skipped else str(added[i].content) if i in added else spelled(i) for i in ids]
        return vocabulary.decode_tokens(tokens)
