"""`ChatGLMTokenizer`: the tokenizer of ChatGLM3 and ChatGLM2 for transformers 5, with the chat format built in."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import BatchEncoding
from transformers.utils.chat_template_utils import get_json_schema

from chatglm.chat.message import Message, Role
from chatglm.chat.openai import from_openai
from chatglm.chat.template import Rendered, build_prompt
from chatglm.errors import CheckpointError, PromptError
from chatglm.model.chat_format import ChatFormat, special_names_of
from chatglm.model.chat_templates import (
    CHATGLM2_TEMPLATE,
    CHATGLM3_TEMPLATE,
    RESPONSE_TEMPLATE,
    is_exact,
    response_template,
)
from chatglm.model.marked_text import MarkedText
from chatglm.model.piece_tokenizer import PieceTokenizer
from chatglm.model.stream_decoder import StreamDecoder
from chatglm.model.tokenizer_version import VERSIONS, find_version
from chatglm.model.v1.vocabulary import FILE as FIRST_FILE
from chatglm.model.vocabulary import Vocabulary

__all__ = ["ChatGLMTokenizer", "StreamDecoder"]

_NOT_OURS = ("auto_map", "remove_space", "do_lower_case", "tokenizer_file", "is_local", "local_files_only")
_SHIELD = "\ufdd0"  # a character that no text has: keeps a user's spelling of a special token apart from the template's


class ChatGLMTokenizer(ChatFormat, PieceTokenizer):
    """Text to ids and back, exactly as the official tokenizers, and conversations to prompts.

    Special tokens in a text are plain text unless asked for, so that a user cannot write a role marker. Prompts are
    rendered as ids, see `apply_chat_template`.

    Args:
        vocab_file: a `tokenizer.model`.
        padding_side: "left", as the model was made for, or "right".
        encode_special_tokens: False: no special token is recognised in texts. True or "roles": the four role tokens,
            as the official files of 2023. "all": all nine, as those of 2024, which also finds `sop` in "sophisticated"
            and `eop` in "people". Never for text that somebody else wrote.
        version: "chatglm3" or "chatglm2". Unless given (a folder saved by this class says it), it is what the folder's
            `config.json` says in `_name_or_path`, else what its `tokenizer_config.json` or `tokenization_chatglm.py`
            says (read as text: only ChatGLM3 knows role tokens), else what the name it is loaded by says, else
            "chatglm3", with a logged warning.
        chat_template: a template of one's own, used as text. The templates of official folders stand for the exact
            format and are replaced by ours.

    Raises:
        CheckpointError: the file is missing or no SentencePiece model.
        PromptError: an unknown version or mode.
    """

    def __init__(
        self,
        vocab_file: str | Path | None = None,
        padding_side: str = "left",
        clean_up_tokenization_spaces: bool = False,
        encode_special_tokens: bool | str = False,
        version: str | None = None,
        **kwargs: Any,
    ) -> None:
        name = str(kwargs.get("name_or_path", ""))
        if vocab_file is None:
            raise CheckpointError(f"there is no tokenizer.model in {name or 'the folder'!r}; the tokenizer needs it")
        if version is None:
            version = find_version(Path(vocab_file).parent, name)
        if version not in VERSIONS:
            raise PromptError(f"unknown tokenizer version {version!r}; it must be one of {VERSIONS}")
        kwargs = {key: value for key, value in kwargs.items() if key not in _NOT_OURS}
        chatglm3 = version == "chatglm3"
        if is_exact(kwargs.get("chat_template")):
            kwargs["chat_template"] = CHATGLM3_TEMPLATE if chatglm3 else CHATGLM2_TEMPLATE
        if chatglm3 and kwargs.get("response_template") in (None, RESPONSE_TEMPLATE):
            kwargs["response_template"] = RESPONSE_TEMPLATE
        self.vocab_file = str(vocab_file)
        self.version = version
        vocabulary = Vocabulary.from_file(vocab_file, role_tokens=chatglm3)
        self.special_tokens = special_names_of(vocabulary)
        super().__init__(
            vocabulary,
            encode_special_tokens,
            padding_side=padding_side,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            version=version,
            **kwargs,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; of a folder of the first generation, whose file says the same class, its tokenizer."""
        if is_first_generation(Path(str(pretrained_model_name_or_path), kwargs.get("subfolder", ""))):
            from chatglm.model.v1.tokenizer import ChatGLM1Tokenizer

            return ChatGLM1Tokenizer.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    # The official methods

    def get_command(self, token: str) -> int:
        """The id of a special token by its name; also of `<bos>`, `<eos>`, `<pad>`, `<unk>`.

        Raises:
            PromptError: no such token; lists the known ones.
        """
        known = {**self.tokenizer.special_tokens, **self.special_tokens}
        if token not in known:
            raise PromptError(f"unknown special token {token!r}; known are {sorted(known)}")
        return known[token]

    def build_single_message(self, role: str, metadata: str, message: str) -> list[int]:
        """The ids of one message, without the prompt's prefix. In any order, unchecked: see `chat.template.validate`.

        Raises:
            PromptError: an unknown role, or ChatGLM2, which has no roles.
        """
        return self.render([Message(Role(self._role(role)), message, metadata)], add_generation_prompt=False).ids[2:]

    def build_chat_input(
        self, query: str, history: Iterable[Mapping[str, Any] | Message] | None = None, role: str = "user"
    ) -> BatchEncoding:
        """The prompt for the next answer as tensors [1, tokens]: the history, then the query as `role`.

        Raises:
            PromptError: an unknown role, content that is no text, or ChatGLM2, which has no roles.
        """
        messages = [*(history or ()), Message(Role(self._role(role)), query)]
        return self._collate_ids([self.render(messages).ids], batched=True, return_tensors="pt")

    def build_prompt(self, query: str, history: Iterable[tuple[str, str]] | None = None) -> str:
        """ChatGLM2's prompt as text: rounds of question and answer."""
        return build_prompt(query, history or ())

    def _role(self, role: str) -> str:
        if self.version != "chatglm3":
            raise PromptError("ChatGLM2 has no roles; use build_prompt or apply_chat_template")
        return Message(role, "").role.value  # type: ignore[arg-type]

    def parse_response(
        self, response: Any, schema: dict[str, Any] | None = None, *, prefix: Any = None, tools: Any = None
    ) -> Any:
        """A generated answer as an OpenAI message, as in transformers; also of texts without their special tokens."""
        if schema is None and isinstance(prefix, str) and self.response_template == RESPONSE_TEMPLATE:
            marked = Role.ASSISTANT.marker in prefix
            schema, prefix = response_template(marked), prefix if marked else ""
        return super().parse_response(response, schema, prefix=prefix, tools=tools)

    # The chat format

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = True,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The prompt of a conversation, or of several: ids exactly as `build_chat_input` (`tokenize=True`), or text.

        Messages are official dicts (`metadata`, `tools`, role `observation`) or OpenAI's (`tool_calls`, role `tool`).
        What they contain is never taken for a special token, whatever it spells; with a template of one's own
        `sanitize_control_tokens=False` switches that off. `return_assistant_tokens_mask` gives `assistant_masks`, the
        tokens a loss is taken on. All options are transformers'.

        Raises:
            PromptError: see `chat.openai.from_openai`; options that contradict each other or that the format lacks.
        """
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise PromptError("return_assistant_tokens_mask needs tokenize=True and return_dict=True")
        if continue_final_message and add_generation_prompt:
            raise PromptError("continue_final_message and add_generation_prompt contradict each other; choose one")
        batched = _is_batch_of_conversations(conversation)
        chats = [getattr(chat, "messages", chat) for chat in (conversation if batched else [conversation])]
        variables = {"documents": documents, "continue_final_message": continue_final_message, **kwargs}
        variables.update(tools=tools, add_generation_prompt=add_generation_prompt)
        template = self.get_chat_template(chat_template, cast(Any, tools))
        if is_exact(template):
            prompts = [self._exact_prompt(chat, tokenize, **variables) for chat in chats]
        elif return_assistant_tokens_mask:
            raise PromptError("return_assistant_tokens_mask is known for ChatGLM's own format, not for other templates")
        else:
            shielded = tokenize and sanitize_control_tokens
            prompts = [self._templated_prompt(chat, template, tokenize, shielded, variables) for chat in chats]
        if not tokenize:
            return prompts if batched else prompts[0]
        found = self._collate_ids(
            [prompt.ids for prompt in prompts],
            batched,
            [prompt.loss_mask for prompt in prompts] if return_assistant_tokens_mask else None,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        return found if return_dict else found["input_ids"]

    def _exact_prompt(
        self,
        chat: Any,
        tokenize: bool,
        *,
        tools: Any,
        documents: Any,
        add_generation_prompt: bool,
        continue_final_message: bool | str,
        **unknown: Any,
    ) -> Any:
        """The format itself: rendered ids, or the text that stands for them."""
        if documents is not None or unknown:
            names = sorted(unknown) + ["documents"] * (documents is not None)
            raise PromptError(f"the options {names} are given; ChatGLM's chat format has no place for them")
        schemas = [tool if isinstance(tool, Mapping) else get_json_schema(tool) for tool in tools or ()]
        messages = from_openai(chat, schemas)
        if not messages:
            raise PromptError("the conversation is empty; it must hold at least one message")
        if continue_final_message not in (True, False, "content"):
            raise PromptError(f"continue_final_message is {continue_final_message!r}; it must be a bool or 'content'")
        if continue_final_message and messages[-1].role is not Role.ASSISTANT:
            raise PromptError(
                f"continue_final_message: the last message is a {messages[-1].role} message, not an answer"
            )
        if tokenize:
            return self.render(messages, add_generation_prompt=add_generation_prompt)
        template = CHATGLM3_TEMPLATE if self.version == "chatglm3" else CHATGLM2_TEMPLATE
        dicts = [{"role": str(m.role), "metadata": m.metadata, "content": m.text()} for m in messages]
        return super().apply_chat_template(
            dicts, chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=False
        )

    def _templated_prompt(self, chat: Any, template: str, tokenize: bool, shielded: bool, variables: Any) -> Any:
        """Another template's text, or its ids: the special tokens it writes are recognised, and those in the messages
        only if they are not shielded."""
        marked = MarkedText(self.tokenizer.special_tokens, {})
        dicts = [item.to_dict() if isinstance(item, Message) else item for item in chat]
        if shielded:
            dicts, variables = _shield(dicts, marked.pattern), _shield(variables, marked.pattern)
        text = super().apply_chat_template(dicts, chat_template=template, tokenize=False, **variables)
        if not tokenize:
            return text
        ids = marked.encode(
            str(text), lambda part: self.tokenizer.encode(part.replace(_SHIELD, "") if shielded else part)
        )
        return Rendered(ids, [False] * len(ids))

    def _collate_ids(
        self, ids: list[list[int]], batched: bool, masks: list[list[bool]] | None = None, **options: Any
    ) -> BatchEncoding:
        """Finished prompts as the tokenizer's output: cut and padded as asked, with the mask beside the ids."""
        return_tensors = options.pop("return_tensors", None)
        sides = options.pop("padding_side", None), options.pop("pad_to_multiple_of", None)
        padding, cutting, max_length, unknown = self._get_padding_truncation_strategies(  # type: ignore[no-untyped-call]
            pad_to_multiple_of=sides[1], **options
        )
        unknown = sorted(key for key, value in unknown.items() if value not in (None, False))
        if unknown:
            raise PromptError(f"unknown options {unknown} for tokenizing a conversation")
        keep = max_length if cutting.value != "do_not_truncate" else None
        part = slice(None) if keep is None else slice(-keep, None) if self.truncation_side == "left" else slice(keep)
        rows: list[dict[str, Any]] = [{"input_ids": list(row[part])} for row in ids]
        for row, mask in zip(rows, masks or (), strict=False):
            row["assistant_masks"] = [int(trained) for trained in mask[part]]
        return self._collate(rows, batched, padding, max_length, sides[1], sides[0], return_tensors)


def is_first_generation(folder: Path) -> bool:
    """Whether the tokenizer in a folder is that of ChatGLM-6B."""
    return (folder / FIRST_FILE).is_file() and not (folder / "tokenizer.model").is_file()


def _is_batch_of_conversations(conversation: Any) -> bool:
    if not isinstance(conversation, (list, tuple)) or not conversation:
        return False
    return isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")


def _shield(value: Any, pattern: re.Pattern[str]) -> Any:
    """The value with a mark inside every special token its texts spell, which breaks the spelling."""
    if isinstance(value, str):
        return pattern.sub(lambda match: match[0][0] + _SHIELD + match[0][1:], value.replace(_SHIELD, "\ufffd"))
    if isinstance(value, Mapping):
        return {key: item if key == "role" else _shield(item, pattern) for key, item in value.items()}
    return [_shield(item, pattern) for item in value] if isinstance(value, (list, tuple)) else value
