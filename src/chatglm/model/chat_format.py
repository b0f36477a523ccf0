"""The chat format of ChatGLM3 and ChatGLM2 on a tokenizer: prompts, and what ends an answer. Without transformers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from chatglm.chat.message import Message, Role
from chatglm.chat.parser import StreamParser
from chatglm.chat.template import Rendered, render
from chatglm.model.pieces import Pieces
from chatglm.model.stream_decoder import StreamDecoder
from chatglm.model.vocabulary import BLANK, Vocabulary


def special_names_of(vocabulary: Vocabulary) -> dict[str, int]:
    """The names `get_command` knows besides the special tokens."""
    names = {"<bos>": vocabulary.bos_id, "<eos>": vocabulary.eos_id}
    return names | {"<pad>": vocabulary.pad_id, "<unk>": vocabulary.pad_id}


class ChatFormat(Pieces):
    """Mixin of the tokenizers of both generations."""

    version: str
    special_tokens: dict[str, int]

    @property
    def chat_specials(self) -> dict[str, int]:
        """Ids of the special tokens the chat format uses, for `chat.template.render`."""
        return {**self.tokenizer.special_tokens, "<eos>": self.tokenizer.eos_id}

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a turn: end of text, and of ChatGLM3 `<|user|>` and `<|observation|>`."""
        roles = [role.marker for role in (Role.USER, Role.OBSERVATION)] if self.version == "chatglm3" else []
        return (self.tokenizer.eos_id, *(self.tokenizer.special_tokens[name] for name in roles))

    def render(
        self,
        messages: Iterable[Mapping[str, Any] | Message],
        *,
        add_generation_prompt: bool = True,
        add_eos: bool = False,
        loss: Sequence[bool | None] | None = None,
    ) -> Rendered:
        """The prompt of a conversation as ids, with its loss mask: `chat.template.render` with this tokenizer."""
        return render(
            messages,
            self.tokenizer.encode,
            self.chat_specials,
            version=self.version,
            add_generation_prompt=add_generation_prompt,
            add_eos=add_eos,
            loss=loss,
        )

    def stream_parser(self, tools: Collection[str] | bool | None = None) -> StreamParser:
        """A parser for one answer of this model; `tools` says what was offered, see `chat.parser`."""
        return StreamParser(
            StreamDecoder(self),
            assistant_id=self.tokenizer.special_tokens.get(Role.ASSISTANT.marker),
            stop_ids=self.stop_ids,
            tools=tools,
        )

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        """Without special tokens, an answer is without the line that stands for its metadata too."""
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if skip_special_tokens and self.version == "chatglm3":
            ids = ids[self._lead(ids) :]
        return super()._decode(ids, skip_special_tokens, clean_up_tokenization_spaces, **kwargs)

    def _lead(self, ids: Sequence[int]) -> int:
        """How many ids every plain answer begins with, if these do: an empty first line, before a blank."""
        begin = [self.surface(token_id) for token_id in ids[:3]]
        lead = 2 if begin[:1] == [BLANK] else 1
        newline, content = begin[lead - 1 : lead], "".join(map(str, begin[lead : lead + 1]))
        single = content.startswith(BLANK) and not content.startswith(BLANK * 2)
        return lead if newline in ([10], ["\n"]) and single else 0
