"""The SentencePiece vocabulary as a `tokenizers` file, for stock GLM folders that are read without this package.

The ids are the same, and `stock_tokenizer` checks that before it hands anything out. Two things differ on purpose. As
in every stock folder, markers written in a text become special tokens there (that markers are text, the official rule,
cannot be told to other programs). And the tokens spelled `sop` and `eop` are written `<sop>` and `<eop>`: other
programs cut special tokens out of any text, also out of "sophisticated".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatglm.errors import CheckpointError
from chatglm.model.chat_templates import CHATGLM2_TEMPLATE, CHATGLM3_TEMPLATE, RESPONSE_TEMPLATE
from chatglm.model.tokenizer import ChatGLMTokenizer
from chatglm.model.vocabulary import BLANK, COMMON_TOKENS, ROLE_TOKENS

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer

# In the order of their ids, right after the pieces; `sop` and `eop` get brackets.
SPECIAL_TOKENS = tuple(f"<{token}>" if token.isalpha() else token for token in COMMON_TOKENS)
# One text per rule of the normalizer, the merges and the byte fallback.
_PROBES = (
    "", " ", "  a   b ", "\n", "a\n\n b\t\r\n", "Hello, world! 12345 3.14", "你好，世界。ＡＢＣ①ﬁ é e\u0301",
    "👋🏽 naïve Ωmega Привет こんにちは", "x" * 40, " " * 40, "=" * 37, "----- ____ ....", "def f(x):\n    return x\n",
    "<0x41><unk></s>", "\x00\x07\u200b\ufeff", "的" * 23, '{"key": [1, 2, {"a": null}]}',
)  # fmt: skip


def read_added_tokens(folder: Path, *, roles: bool = True) -> dict[int, "AddedToken"]:
    """The tokens that were added to a folder's tokenizer, by id and in the order of their ids.

    A token that was a piece before has that piece's id; the ids of the others follow the model's own.

    Raises:
        CheckpointError: their ids leave a gap that other formats cannot have.
    """
    tokenizer: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(folder, version="chatglm3" if roles else "chatglm2")
    added = tokenizer.added_tokens
    beyond = [token_id for token_id in added if token_id >= tokenizer.vocab_size]
    for expected, token_id in enumerate(beyond, tokenizer.vocab_size):
        if token_id != expected:
            name = str(added[token_id])
            raise CheckpointError(
                f"the added token {name!r} of {folder} has id {token_id}; the next free one is {expected}, and the"
                " converted tokenizer has no place for a gap: add tokens in the order of their ids"
            )
    return added


def stock_tokenizer(model_file: Path, *, roles: bool = True, added: "Sequence[AddedToken]" = ()) -> "Tokenizer":
    """The same tokenizer in the `tokenizers` library: `[gMASK] <sop>` in front, specials appended after the pieces.

    `roles`: the four role tokens of ChatGLM3 are among them. `added`: pieces, and tokens that follow these.

    Raises:
        CheckpointError: the vocabulary uses rules (another normalizer, another algorithm) that would give other ids.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken

    pieces = SentencePieceProcessor(model_file=str(model_file))
    tokenizer = _build(pieces, SPECIAL_TOKENS + (ROLE_TOKENS if roles else ()))
    probes = (*_PROBES, *(pieces.id_to_piece(index).replace(BLANK, " ") for index in range(pieces.get_piece_size())))
    for text in probes:
        expected, found = pieces.encode(text), tokenizer.encode(text, add_special_tokens=False).ids
        if found != expected and not any(token in text for token in SPECIAL_TOKENS + ROLE_TOKENS):
            raise CheckpointError(
                f"{model_file} cannot be written as tokenizer.json: {text!r} would become {found}, it is {expected}"
            )
    for token in added:  # pieces keep their ids, others get the next ones; recognised in texts as they are written
        kept = AddedToken(
            token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False
        )
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([kept])
    return tokenizer


def _build(pieces: "SentencePieceProcessor", specials: tuple[str, ...]) -> "Tokenizer":
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    size = pieces.get_piece_size()
    vocabulary = {pieces.id_to_piece(index): index for index in range(size)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(pieces), byte_fallback=True, fuse_unk=True, unk_token=pieces.id_to_piece(0))
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    first = [(token, size + specials.index(token)) for token in ("[gMASK]", "<sop>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK]:0 <sop>:0 $A:0", pair="[gMASK]:0 <sop>:0 $A:0 $B:0 </s>:0", special_tokens=[*first, ("</s>", 2)]
    )
    return tokenizer


def _merges(pieces: "SentencePieceProcessor") -> list[tuple[str, str]]:
    """Every way to join two pieces into one, the best scored first, as SentencePiece would join them."""
    names = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    scores = {
        name: pieces.get_score(index)
        for index, name in enumerate(names)
        if not (pieces.is_byte(index) or pieces.is_control(index) or pieces.is_unknown(index))
    }
    joins: list[tuple[float, int, tuple[str, str]]] = []
    for order, (name, score) in enumerate(scores.items()):
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in scores and right in scores:
                joins.append((-score, order, (left, right)))
    return [pair for _, _, pair in sorted(joins, key=lambda join: join[:2])]


def tokenizer_config(max_length: int, *, roles: bool = True) -> dict[str, Any]:
    """The `tokenizer_config.json` beside it, with the chat template; pads on the left with id 0."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "pad_token": "<unk>",
        "unk_token": "<unk>",
        "padding_side": "left",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    template = CHATGLM3_TEMPLATE if roles else CHATGLM2_TEMPLATE
    # Without its first comment, which says that our own tokenizer renders without it.
    config["chat_template"] = template.partition("-#}")[2].replace("'[gMASK]sop'", "'[gMASK]<sop>'")
    return config | {"response_template": RESPONSE_TEMPLATE} if roles else config
