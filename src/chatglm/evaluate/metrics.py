"""The metrics of LongBench, from 0 to 1: what its own program computes, written anew.

Chinese is divided into words by jieba, which the extra `evaluate` brings.
"""

import difflib
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from chatglm.errors import MissingExtraError

_PUNCTUATION_ZH = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】"
    "〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)
_DROPPED = set(string.punctuation)
_DROPPED_ZH = _DROPPED | set(_PUNCTUATION_ZH)


def token_f1(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """F1 of the words, without case, punctuation and articles."""
    return _f1(_words(answer), _words(gold))


def token_f1_zh(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """The same of Chinese words."""
    return _f1(*([word for word in map(_bare_zh, _cut(text)) if word] for text in (answer, gold)))


def rouge_l(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """F1 of the longest common subsequence of words, summed over the gold's sentences as the package `rouge` does."""
    return _rouge(answer, gold)


def rouge_l_zh(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """The same of Chinese words."""
    return _rouge(" ".join(_cut(answer)), " ".join(_cut(gold)))


def classification(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """One over the number of class names in the answer, if the right one is among them."""
    named = [name for name in classes if name in answer]
    for (
        name
    ) in named:  # of two names in a row that are parts of the right one, the second stays: as the official program
        if name in gold and name != gold:
            named.remove(name)
    return 1 / len(named) if gold in named else 0.0


def retrieval(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """Share of the numbers in the answer that are the paragraph's."""
    return _number_share(answer, gold, r"Paragraph (\d+)")


def retrieval_zh(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """The same for `段落N`."""
    return _number_share(answer, gold, r"段落(\d+)")


def count(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """Share of the numbers in the answer that are the right one."""
    numbers = re.findall(r"\d+", answer)
    return numbers.count(gold) / len(numbers) if numbers else 0.0


def code_similarity(answer: str, gold: str, classes: Sequence[str] = ()) -> float:
    """How alike the first line of code is, in hundredths."""
    lines = answer.lstrip("\n").split("\n")
    first = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return round(100 * difflib.SequenceMatcher(None, first, gold).ratio()) / 100


LONG_METRICS: Mapping[str, Callable[[str, str, Sequence[str]], float]] = {
    "token F1": token_f1, "token F1, Chinese": token_f1_zh, "ROUGE-L": rouge_l, "ROUGE-L, Chinese": rouge_l_zh,
    "classification": classification, "retrieval": retrieval, "retrieval, Chinese": retrieval_zh, "count": count,
    "code similarity": code_similarity,
}  # fmt: skip


def _words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if character not in _DROPPED)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _bare_zh(word: str) -> str:
    kept = "".join(character for character in word.lower() if character not in _DROPPED_ZH)
    return "".join(kept.split())


def _cut(text: str) -> list[str]:
    try:
        import warnings

        with warnings.catch_warnings():  # its sources hold escapes that newer Pythons warn of
            warnings.simplefilter("ignore")
            import jieba  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("jieba", "evaluate", "dividing Chinese text into words") from None
    jieba.setLogLevel(60)  # it tells on standard error that it builds its dictionary
    return list(jieba.cut(text, cut_all=False))


def _f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    same = sum((Counter(answer) & Counter(gold)).values())
    return 2 * same / (len(answer) + len(gold)) if same else 0.0


def _rouge(answer: str, gold: str) -> float:
    """`rouge-l` of the package `rouge` for one pair: the words in common of all sentences, each counted once."""
    hypothesis, reference = _sentences(answer), _sentences(gold)
    shared = {word for one in reference for other in hypothesis for word in _common(one, other)}
    if not shared:
        return 0.0
    precision, recall = (
        len(shared) / len({word for words in sentences for word in words}) for sentences in (hypothesis, reference)
    )
    return 2 * precision * recall / (precision + recall)


def _sentences(text: str) -> list[list[str]]:
    """Full stops end sentences. One of blanks alone has one word, the empty one, as in the package."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _number_share(answer: str, gold: str, pattern: str) -> float:
    right = re.findall(pattern, gold)
    numbers = re.findall(r"\d+", answer)
    return numbers.count(right[0]) / len(numbers) if numbers and right else 0.0


def _common(one: Sequence[str], other: Sequence[str]) -> Iterable[str]:
    """The words of a longest common subsequence."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    i, j, found = len(one), len(other), []
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.append(one[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
