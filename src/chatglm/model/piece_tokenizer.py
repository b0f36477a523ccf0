"""A transformers tokenizer straight on SentencePiece: ids without a detour over pieces, batches, padding, decoding.

transformers' own path splits text into pieces, looks each up, and prepares every row in Python; here the ids come from
SentencePiece in one call. `ChatGLMTokenizer` adds what is particular to the model: versions and the chat format.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizer
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from chatglm.errors import PromptError
from chatglm.model.pieces import Pieces
from chatglm.model.rows import RowMaker, RowOptions, is_batch
from chatglm.model.vocabulary import Vocabulary

# The options of a call that `_encode_one` heeds, or that mean nothing when there is nothing to cut or pad.
_SIMPLE = {"add_special_tokens", "split_special_tokens", "max_length", "stride", "return_attention_mask"}
_FILL: dict[str, Any] = {"position_ids": 0, "assistant_masks": 0, "offset_mapping": (0, 0)}  # what pads have there


class PieceTokenizer(Pieces, PreTrainedTokenizer):
    """See `ChatGLMTokenizer`, which is what people use."""

    vocab_files_names = {"vocab_file": "tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask", "position_ids"]
    padding_side = "left"

    tokenizer: Vocabulary
    vocab_file: str

    def __init__(self, vocabulary: Vocabulary, encode_special_tokens: bool | str, **kwargs: Any) -> None:
        self.use_vocabulary(vocabulary)
        self._pieces: dict[str, int] | None = None
        self.encode_special_tokens = encode_special_tokens
        name = vocabulary.sp_model.id_to_piece
        kwargs.setdefault("bos_token", name(vocabulary.bos_id))
        kwargs.setdefault("eos_token", name(vocabulary.eos_id))
        kwargs.setdefault("unk_token", name(vocabulary.pad_id))
        kwargs.setdefault("pad_token", name(vocabulary.pad_id))
        own = vocabulary.special_tokens
        extra = kwargs.pop("extra_special_tokens", None) or []
        more = [token for token in (extra.values() if isinstance(extra, dict) else extra) if str(token) not in own]
        kwargs.update(encode_special_tokens=encode_special_tokens, extra_special_tokens=[*own, *more])
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Pieces and special tokens, without tokens people added."""
        return self.tokenizer.n_words

    def get_vocab(self) -> dict[str, int]:
        """Token to id, added tokens included."""
        if self._pieces is None:
            self._pieces = self.tokenizer.pieces()
        return {**self._pieces, **self._added_tokens_encoder}

    @property
    def added_tokens(self) -> dict[int, Any]:
        """The tokens people added, by id, as transformers' `AddedToken`s in the order of their ids."""
        self._looked_for()
        return dict(sorted(self._added.items()))

    @property
    def all_special_tokens(self) -> list[str]:
        """The named ones, the model's own, and those people added: `add_special_tokens` replaces only the last."""
        return list(dict.fromkeys([*super().all_special_tokens, *self.tokenizer.special_tokens]))

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes `tokenizer.model`: the file this tokenizer was read from, byte by byte, where it still exists."""
        target = Path(save_directory, (filename_prefix + "-" if filename_prefix else "") + "tokenizer.model")
        source = Path(self.vocab_file)
        if not source.is_file():
            target.write_bytes(self.tokenizer.serialized())
        elif not target.exists() or not source.samefile(target):
            shutil.copyfile(source, target)
        return (str(target),)

    def __setattr__(self, key: str, value: Any) -> None:
        # `pad_token_id = eos_token_id` is a common habit, and ids 0 to 2 decode to nothing: look their names up.
        if key.endswith("_token_id") and isinstance(value, int):
            is_piece = 0 <= value < self.tokenizer.sp_size
            name = self.tokenizer.sp_model.id_to_piece(value) if is_piece else self._spelling(value)
            key, value = key.removesuffix("_id"), name
        super().__setattr__(key, value)  # type: ignore[no-untyped-call]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """Pieces, and special tokens where they are recognised or, with `add_special_tokens`, added."""
        plain = bool(kwargs.get("split_special_tokens", self.split_special_tokens))
        ids, pair_ids = self.encode_text(text, plain), None if pair is None else self.encode_text(pair, plain)
        if add_special_tokens:
            return [self._spelling(token_id) for token_id in self.build_inputs_with_special_tokens(ids, pair_ids)]
        return [self._spelling(token_id) for token_id in [*ids, *(pair_ids or ())]]

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.tokenizer.tokenize(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.tokenizer.convert_token_to_id(token)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`[gMASK] sop` first; of a pair, the end-of-text token last."""
        pair = [] if token_ids_1 is None else [*token_ids_1, *self.get_end_tokens()]
        return [*self.get_prefix_tokens(), *token_ids_0, *pair]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, 0 elsewhere."""
        if already_has_special_tokens:
            found: list[int] = super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
            return found
        pair = [] if token_ids_1 is None else [*[0] * len(token_ids_1), 1]
        return [1, 1, *[0] * len(token_ids_0), *pair]

    def _encode_plus(  # type: ignore[override]
        self,
        text: Any,
        text_pair: Any = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        cuts = truncation_strategy is not TruncationStrategy.DO_NOT_TRUNCATE
        pads = padding_strategy is not PaddingStrategy.DO_NOT_PAD
        if type(text) is str and text_pair is None and not (cuts or pads) and _nothing_else(kwargs):
            return self._encode_one(text, return_tensors, verbose, **kwargs)
        kwargs.pop("return_attention_mask", None)  # see _pad
        options = {key.removeprefix("return_"): value for key, value in kwargs.items() if value is not None}
        unknown = sorted(key for key in options.keys() - set(RowOptions.__slots__) if options[key] is not False)
        if unknown:
            raise PromptError(f"unknown tokenizer options {unknown}; see transformers' documentation of tokenizers")
        known = {key: value for key, value in options.items() if key in RowOptions.__slots__}
        maker = RowMaker(self, RowOptions(truncation=truncation_strategy, **known))
        batched = is_batch(text, maker.options.is_split_into_words)
        pairs = text_pair if batched or text_pair is None else [text_pair]
        rows = maker.rows(text if batched else [text], pairs)
        max_length = maker.options.max_length
        for row in rows:
            self._eventual_warn_about_too_long_sequence(row["input_ids"], max_length, verbose)
        return self._collate(
            rows, batched, padding_strategy, max_length, pad_to_multiple_of, padding_side, return_tensors
        )

    def _encode_one(
        self,
        text: str,
        return_tensors: Any,
        verbose: bool,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        max_length: int | None = None,
        **unused: Any,
    ) -> BatchEncoding:
        """One text and no wishes: most calls, at half the time of a row of many."""
        ids = self.encode_text(text, split_special_tokens)
        if add_special_tokens:
            ids = self.get_prefix_tokens() + ids
        self._eventual_warn_about_too_long_sequence(ids, max_length, verbose)
        row = {"input_ids": ids, "attention_mask": [1] * len(ids), "position_ids": list(range(len(ids)))}
        return BatchEncoding(row, tensor_type=return_tensors, prepend_batch_axis=True)

    # Rows to batches

    def _collate(
        self,
        rows: list[dict[str, Any]],
        batched: bool,
        padding: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
    ) -> BatchEncoding:
        """Rows as the tokenizer's output: padded as asked, as lists or tensors, with a batch axis if `batched`."""
        if padding == PaddingStrategy.LONGEST and rows:
            padding, max_length = PaddingStrategy.MAX_LENGTH, max(len(row["input_ids"]) for row in rows)
        padded = [self._pad(row, max_length, padding, pad_to_multiple_of, padding_side) for row in rows]
        keys = list(dict.fromkeys(key for row in padded for key in row)) or self.model_input_names
        if return_tensors is not None:  # as transformers: these have no common length
            keys = [key for key in keys if key not in ("overflowing_tokens", "num_truncated_tokens")]
        columns = {key: [row[key] for row in padded if key in row] for key in keys}
        if not batched:
            columns = {key: values[0] for key, values in columns.items()}
        return BatchEncoding(columns, tensor_type=return_tensors, prepend_batch_axis=not batched)

    def _pad(
        self,
        encoded_inputs: Any,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:
        """Pads one row, on the left unless told otherwise: ids and masks 0, position 0.

        The mask and the positions are always there, whatever `return_attention_mask` says, as in the official code:
        without them the model would take pads for text.
        """
        row = dict(encoded_inputs)
        length = len(row["input_ids"])
        row.setdefault("attention_mask", [1] * length)
        row.setdefault("position_ids", list(range(length)))
        if padding_strategy == PaddingStrategy.DO_NOT_PAD:
            return row
        side = padding_side or self.padding_side
        padded: dict[str, Any] = super()._pad(row, max_length, padding_strategy, pad_to_multiple_of, side, True)
        pads = len(padded["input_ids"]) - length
        for key, fill in _FILL.items():
            if pads and key in padded:
                values, filling = list(padded[key]), [fill] * pads
                padded[key] = filling + values if side == "left" else values + filling
        return padded

    # Ids to text

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The pieces of ids; "" for bos, eos and pad, and for ids without a meaning, as the official code has it.

        Raises:
            IndexError: of ChatGLM2, an id beyond its vocabulary.
        """
        if isinstance(ids, int):
            return self._convert_id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._convert_id_to_token(int(token_id)) for token_id in ids if int(token_id) not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces."""
        return self.tokenizer.decode_tokens(tokens)


def _nothing_else(options: dict[str, Any]) -> bool:
    return all(key in _SIMPLE for key, value in options.items() if value)
