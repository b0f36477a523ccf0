"""`ChatGLM1Tokenizer`: the tokenizer of ChatGLM-6B for transformers 5, with its chat format built in."""

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizer
from transformers.utils.generic import PaddingStrategy

from chatglm.chat import first_rounds
from chatglm.chat.first_rounds import AnswerText
from chatglm.chat.message import Message
from chatglm.chat.openai import from_openai
from chatglm.chat.parser import StreamParser
from chatglm.chat.template import Rendered, check_rounds
from chatglm.errors import CheckpointError, PromptError
from chatglm.model.stream_decoder import StreamDecoder
from chatglm.model.v1.vocabulary import FILE, FirstVocabulary

_NOT_OURS = ("auto_map", "remove_space", "do_lower_case", "tokenizer_file", "is_local", "local_files_only")
_TOKENS = {
    "bos_token": "<sop>", "eos_token": "<eop>", "end_token": "</s>", "mask_token": "[MASK]", "gmask_token": "[gMASK]",
    "pad_token": "<pad>", "unk_token": "<unk>",
}  # fmt: skip
_RECOGNISED = ("bos_token", "eos_token", "mask_token", "pad_token", "unk_token")  # spelled in a text, as officially


class ChatGLM1Tokenizer(PreTrainedTokenizer):
    """Text to ids and back, exactly as the official tokenizer, and conversations to prompts.

    A text becomes `text [gMASK] <sop>`; a text with a `[MASK]` in it too. Batches are padded on the left, with the
    official masks (bool, True where a token must not look) and both rows of positions. `<sop>`, `<eop>`, `<pad>`,
    `<unk>` and `[MASK]` that are spelled in a text are those tokens, as officially; in prompts of `render` and `chat`
    they are plain text, so that no user can end a prompt. Decoding takes blanks before marks away, as officially;
    `clean_up_tokenization_spaces=False` leaves them, and so do answers of `chat`, which may be code.

    Args:
        vocab_file: an `ice_text.model`.
        num_image_tokens: ids before those of the text: 20000 in the releases of March 2023, 0 in the later ones, which
            say so. The official default.

    Raises:
        CheckpointError: the file is missing or another one. PromptError: padding on the right.
    """

    vocab_files_names = {"vocab_file": FILE}
    model_input_names = ["input_ids", "attention_mask", "position_ids"]
    padding_side = "left"
    version = "chatglm1"

    def __init__(
        self,
        vocab_file: str | Path | None = None,
        num_image_tokens: int = 20000,
        padding_side: str = "left",
        clean_up_tokenization_spaces: bool = True,
        **kwargs: Any,
    ) -> None:
        if vocab_file is None:
            name = kwargs.get("name_or_path") or "the folder"
            raise CheckpointError(f"there is no {FILE} in {name!r}; the tokenizer needs it")
        _check_side(padding_side)
        kwargs = {key: value for key, value in kwargs.items() if key not in _NOT_OURS}
        for held in ("extra_special_tokens", "model_specific_special_tokens"):  # where transformers puts some names
            if isinstance(given := kwargs.get(held), dict):
                kwargs |= {key: given[key] for key in given if key in _TOKENS or key == "eop_token"}
                kwargs[held] = {key: given[key] for key in given if key not in kwargs}
        self.vocab_file, self.num_image_tokens = str(vocab_file), num_image_tokens
        self.tokenizer = FirstVocabulary(vocab_file, num_image_tokens)
        self._pieces: dict[str, int] | None = None
        names = {key: str(kwargs.pop(key, None) or name) for key, name in _TOKENS.items()}
        names |= {"eos_token": kwargs.pop("eop_token", None) or names["eos_token"]}  # the name of the first releases
        self._end, self._gmask = names["end_token"], names["gmask_token"]
        # Known before transformers looks for them: those it adds itself keep the blanks around them.
        recognised = [AddedToken(names[key], lstrip=True, rstrip=True, special=True) for key in _RECOGNISED]
        self._added_tokens_decoder = {self.tokenizer.id_of(token.content): token for token in recognised}
        super().__init__(
            padding_side=padding_side,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            num_image_tokens=num_image_tokens,
            **{key: names[key] for key in _RECOGNISED},
            **kwargs,
        )  # type: ignore[no-untyped-call]

        # transformers would recognise every `..._token` in texts; the official tokenizer does not these.
        self.init_kwargs |= {"end_token": self._end, "gmask_token": self._gmask}

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        """Ids with a meaning, those of images included."""
        return self.tokenizer.size

    @property
    def gmask_token(self) -> str:
        """The token every prompt ends with, before `<sop>`."""
        return self._gmask

    @property
    def gmask_token_id(self) -> int:
        """Its id."""
        return self.tokenizer.id_of(self._gmask)

    @property
    def end_token_id(self) -> int:
        """The id of `</s>`."""
        return self.tokenizer.id_of(self._end)

    def get_vocab(self) -> dict[str, int]:
        """Piece to id, added tokens included."""
        if self._pieces is None:
            self._pieces = {self.tokenizer.piece_of(token_id): token_id for token_id in range(self.vocab_size)}
        return {**self._pieces, **self._added_tokens_encoder}

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes `ice_text.model`: the file this tokenizer was read from, byte by byte."""
        target = Path(save_directory, (filename_prefix + "-" if filename_prefix else "") + FILE)
        source = Path(self.vocab_file)
        if not source.is_file():
            target.write_bytes(bytes(self.tokenizer.pieces.serialized_model_proto()))
        elif not target.exists() or not source.samefile(target):
            shutil.copyfile(source, target)
        return (str(target),)

    # Text to ids

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.tokenizer.tokenize(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.tokenizer.id_of(token)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`A [gMASK] <sop>`, and of a pair `A [gMASK] <sop> B <eop>`."""
        first = [*token_ids_0, self.gmask_token_id, self._id("bos_token")]
        return first if token_ids_1 is None else [*first, *token_ids_1, self._id("eos_token")]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Tokens that `build_inputs_with_special_tokens` adds."""
        return 3 if pair else 2

    def _id(self, name: str) -> int:
        return self.tokenizer.id_of(str(getattr(self, name)))

    def _pad(
        self,
        encoded_inputs: Any,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:
        """One row with its mask [1, S, S] and positions [2, S], padded on the left. Where no length is in question
        there are none, as officially: the model makes them from the ids."""
        import numpy as np

        _check_side(padding_side or self.padding_side)
        row = dict(encoded_inputs)
        ids = list(row["input_ids"])
        if padding_strategy == PaddingStrategy.LONGEST:
            max_length = len(ids)
        if max_length is None:
            row.pop("attention_mask", None)
            return row
        if pad_to_multiple_of and max_length % pad_to_multiple_of:
            max_length += pad_to_multiple_of - max_length % pad_to_multiple_of
        pads = 0 if padding_strategy == PaddingStrategy.DO_NOT_PAD else max(0, max_length - len(ids))
        mask, positions = self._mask_and_positions(ids)
        row["attention_mask"] = np.pad(mask, ((0, 0), (pads, 0), (pads, 0)), constant_values=True)
        row["position_ids"] = np.pad(positions, ((0, 0), (pads, 0)))
        row["input_ids"] = [self._id("pad_token")] * pads + ids
        for key, fill in (("token_type_ids", 0), ("special_tokens_mask", 1)):
            if key in row:
                row[key] = [fill] * pads + list(row[key])
        return row

    def _mask_and_positions(self, ids: Sequence[int]) -> tuple[Any, Any]:
        """What the tokens of a row must not see, bool [1, S, S], and their positions [2, S]."""
        import numpy as np

        length, sop = len(ids), self._id("bos_token")
        context = ids.index(sop) if sop in ids else length
        hidden = np.triu(np.ones((1, length, length), dtype=bool), 1)
        hidden[:, :, :context] = False
        mask_id = self._id("mask_token") if self._id("mask_token") in ids else self.gmask_token_id
        steps, blocks = np.arange(length), np.zeros(length, dtype=np.int64)
        if mask_id in ids:
            steps[context:] = ids.index(mask_id)
        blocks[context:] = np.arange(1, length - context + 1)
        return hidden, np.stack((steps, blocks))

    # Ids to text

    def surface(self, token_id: int) -> str | int:
        """What an id adds to a text. For `StreamDecoder`."""
        return self.tokenizer.surface(token_id)

    def _convert_id_to_token(self, index: int) -> str:
        return self.tokenizer.piece_of(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces."""
        return self.tokenizer.decode(tokens)

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        skipped = {self._id("pad_token")} | (set(self.all_special_ids) if skip_special_tokens else set())
        text = self.tokenizer.decode([self.tokenizer.piece_of(i) for i in ids if i not in skipped])
        asked = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if asked is None else asked
        return self.clean_up_tokenization(text) if clean else text

    # The chat format

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The id that ends an answer: `<eop>`."""
        return (self._id("eos_token"),)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids that stand for no text, by their names."""
        return {name: self.tokenizer.id_of(name) for name in _TOKENS.values()}

    def build_prompt(self, query: str, history: Iterable[tuple[str, str]] | None = None) -> str:
        """The prompt as text: rounds of question and answer, from 0."""
        return first_rounds.build_prompt(query, history or ())

    def render(
        self,
        messages: Iterable[Mapping[str, Any] | Message],
        *,
        add_generation_prompt: bool = True,
        add_eos: bool = False,
        loss: Sequence[bool | None] | None = None,
    ) -> Rendered:
        """The prompt of a conversation as ids, with its loss mask; see `chat.first_rounds.render`."""
        specials = {"[gMASK]": self.gmask_token_id, "<sop>": self._id("bos_token"), "<eos>": self._id("eos_token")}
        return first_rounds.render(
            messages,
            self.tokenizer.encode,
            specials,
            add_generation_prompt=add_generation_prompt,
            add_eos=add_eos,
            loss=loss,
        )

    def stream_parser(self, tools: Collection[str] | bool | None = None) -> StreamParser:
        """A parser for one answer: plain text, as people are shown it. `tools` are unknown to this model."""
        return StreamParser(AnswerText(StreamDecoder(self)), assistant_id=None, stop_ids=self.stop_ids, tools=False)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: Any = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """The prompt of one conversation, ids exactly as `render` (`tokenize=True`), or text.

        Raises:
            PromptError: tools, documents, other options, or a conversation the format has no place for.
        """
        given = {name: value for name, value in {"tools": tools, "documents": documents, **kwargs}.items() if value}
        if given:
            raise PromptError(f"the options {sorted(given)} are given; ChatGLM-6B's chat format has no place for them")
        messages = from_openai(conversation, [])
        if tokenize:
            ids = self.render(messages, add_generation_prompt=add_generation_prompt).ids
            found = self.pad({"input_ids": [ids]}, padding=False, return_tensors=return_tensors)
            if return_tensors is None:
                found = self.pad({"input_ids": ids}, padding=False)
            return found if return_dict else found["input_ids"]
        check_rounds(messages, first_rounds.NAME)
        asked = [message.content for message in messages]
        if len(asked) % 2 == 0:
            return self.build_prompt(asked[-2], list(zip(asked[:-2:2], asked[1:-2:2], strict=True))) + asked[-1]
        return self.build_prompt(asked[-1], list(zip(asked[:-1:2], asked[1::2], strict=True)))


def _check_side(side: str) -> None:
    if side != "left":
        raise PromptError(f"padding_side is {side!r}; ChatGLM-6B is padded on the left: its answers begin at the end")
