"""Special tokens spelled out in a text: which ones are looked for, and the ids of a text that has them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chatglm.errors import PromptError
from chatglm.model.vocabulary import ROLE_TOKENS

SPECIAL_MODES = (False, True, "roles", "all")


def special_names(special_tokens: Mapping[str, int], mode: bool | str) -> list[str]:
    """The names a mode of `encode_special_tokens` recognises. Never bos, eos and unk: no official file does.

    Raises:
        PromptError: an unknown mode.
    """
    if mode not in SPECIAL_MODES:
        raise PromptError(f"encode_special_tokens is {mode!r}; it must be one of {SPECIAL_MODES}")
    return [name for name in special_tokens if mode == "all" or (mode is not False and name in ROLE_TOKENS)]


class MarkedText:
    """Finds tokens in texts and encodes what lies between them, each part by itself.

    Args:
        tokens: name to id, looked for as they are.
        added: id to transformers' `AddedToken`, whose options say whether it takes the blanks around it.
    """

    def __init__(self, tokens: Mapping[str, int], added: Mapping[int, Any]) -> None:
        longest_first = sorted(added.items(), key=lambda item: -len(item[1].content))
        groups = [*map(re.escape, tokens), *(_added_pattern(token) for _, token in longest_first)]
        self.pattern = re.compile("|".join(f"({group})" for group in groups))
        self.ids: Sequence[int] = [*tokens.values(), *(token_id for token_id, _ in longest_first)]

    def encode(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text: of the tokens, and by `encode` of the texts between them."""
        ids: list[int] = []
        place = 0
        for match in self.pattern.finditer(text):
            if match.start() > place:
                ids += encode(text[place : match.start()])
            ids.append(self.ids[(match.lastindex or 1) - 1])
            place = match.end()
        return ids + encode(text[place:]) if place < len(text) else ids


def _added_pattern(token: Any) -> str:
    text = re.escape(str(token.content))
    if token.single_word:
        text = rf"(?<!\w){text}(?!\w)"
    return (r"\s*" if token.lstrip else "") + text + (r"\s*" if token.rstrip else "")
