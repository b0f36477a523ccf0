"""A tokenizer of thirty lines: id = byte, specials above. Like SentencePiece it puts a blank before every text."""

import codecs

import no_deadline  # noqa: F401

SPECIALS = {
    "[gMASK]": 300,
    "sop": 301,
    "<|system|>": 302,
    "<|user|>": 303,
    "<|assistant|>": 304,
    "<|observation|>": 305,
}
SPECIALS["<eos>"] = 306
STOP_IDS = (SPECIALS["<|user|>"], SPECIALS["<|observation|>"], SPECIALS["<eos>"])


def encode(text: str) -> list[int]:
    return list(b" " + text.encode()) if text else []


class ByteDecoder:
    """Drops the first blank; unfinished or impossible bytes become U+FFFD; ids without a byte are spelled out."""

    def __init__(self) -> None:
        self.flush()

    def push(self, token_id: int) -> str:
        if not 0 <= token_id < 256:
            return self._begun(self.decoder.decode(b"", final=True) + f"<{token_id}>")
        return self._begun(self.decoder.decode(bytes([token_id])))

    def _begun(self, text: str) -> str:
        if text and self.at_start:
            self.at_start = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        rest = self.decoder.decode(b"", final=True) if hasattr(self, "decoder") else ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.at_start = True
        return rest


def decode(ids: list[int]) -> str:
    decoder = ByteDecoder()
    return "".join(decoder.push(token_id) for token_id in ids) + decoder.flush()
