"""What a task says to the model, in Chinese and English, and how the plan in its answer is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatglm.errors import SessionError

_CHINESE_NUMBER = "[一二三四五六七八九十]{1,3}"
_STEP = re.compile(
    rf"""\s*[>#]*\s*(?:\*\*)?\s*
    (?: 第\s*(?:\d{{1,2}}|{_CHINESE_NUMBER})\s*步\s*[:：.、，]?
      | (?:\d{{1,2}}|{_CHINESE_NUMBER})\s*[.、．)）:：](?!\d)
      | (?:步骤|[Ss]tep)\s*(?:\d{{1,2}}|{_CHINESE_NUMBER})\s*[:：.、)]?
      | [-*•]\s )
    \s*(?P<text>\S.*)""",
    re.VERBOSE,
)
_FAILED = re.compile(r"\W*(?:失败(?:[:：，,。！]|了|\Z)|failed\b\s*[:：.,]?)\s*", re.IGNORECASE)
# How an answer begins that says only why there is none: "Sorry, I do not know that.", "抱歉，我无法……".
_GIVEN_UP = re.compile(
    r"""\W*(?:[很真]?抱歉|非常抱歉|对不起)?\W*(?:但|可是)?(?:目前|现在)?我(?:目前|现在|暂时)?还?
        (?:无法|没法|没有?办法|不能|不会|做不到|不知道)
      | \W*(?:(?:I\s+am\s+|I['’]m\s+)?(?:very\s+)?sorry\W+|unfortunately\W+)?(?:but\s+)?I
        (?:(?:\s+am|['’]m)\s+(?:unable|not\s+able)|\s+can(?:\s?not|['’]t)|\s+(?:do\s+not|don['’]t)\s+know)\b""",
    re.VERBOSE | re.IGNORECASE,
)
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Words:
    """The prompts of a task. Each says again what the task is: long histories lose their beginning."""

    plan: str
    step: str
    revise: str
    answer: str
    done: str
    nothing: str
    ended: str


CHINESE = Words(
    plan="任务：{task}\n\n请先为这个任务制定计划。现在不要执行，也不要调用工具。"
    "每行写一步，格式是“1. ……”，最多 {most} 步，只写计划。",
    step="任务：{task}\n\n计划：\n{plan}\n\n现在只做第 {number} 步：{step}\n"
    "需要时可以调用工具或运行代码。做完后用一两句话说明这一步的结果；如果做不到，请以“失败：”开头说明原因。",
    revise="任务：{task}\n\n这一步没有成功：{step}\n原因：{why}\n\n"
    "请换一种办法，从这里开始写出新的计划。现在不要执行。每行写一步，格式是“1. ……”，最多 {most} 步，只写计划。",
    answer="任务：{task}\n\n已经做过的步骤和结果：\n{results}\n\n请根据这些结果直接写出任务的最终答案，不要再调用工具。",
    done="（已完成）",
    nothing="没有给出结果",
    ended="这一步中途结束了（{reason}）",
)
ENGLISH = Words(
    plan="Task: {task}\n\nFirst make a plan for this task. Do not carry it out yet and do not call tools. "
    "Write one step per line in the form '1. ...', at most {most} steps, and nothing but the plan.",
    step="Task: {task}\n\nPlan:\n{plan}\n\nNow do only step {number}: {step}\n"
    "Call tools or run code where needed. Then say in one or two sentences what came of this step; "
    "if it cannot be done, begin with 'Failed:' and say why.",
    revise="Task: {task}\n\nThis step did not succeed: {step}\nReason: {why}\n\n"
    "Find another way and write a new plan from here on. Do not carry it out yet. "
    "Write one step per line in the form '1. ...', at most {most} steps, and nothing but the plan.",
    answer="Task: {task}\n\nSteps taken and their results:\n{results}\n\n"
    "From these results write the final answer to the task. Do not call tools any more.",
    done=" (done)",
    nothing="it gave no result",
    ended="it ended midway ({reason})",
)


def words_for(task: str, language: str | None) -> Words:
    """The prompts in "zh" or "en", by default in the language of the task.

    Raises:
        SessionError: another language.
    """
    if language is None:
        language = "zh" if _CHINESE.search(task) else "en"
    known = {"zh": CHINESE, "en": ENGLISH}
    if language not in known:
        raise SessionError(f"the language of a task is {language!r}; it must be 'en' or 'zh'")
    return known[language]


def read_plan(text: str) -> list[str]:
    """The steps in an answer: its numbered lines, or lines with a dash; empty where there are none."""
    found = [match["text"].replace("**", "").strip() for line in text.splitlines() if (match := _STEP.fullmatch(line))]
    return [step for step in dict.fromkeys(found) if step]


def why_failed(text: str) -> str | None:
    """The reason an answer gives for not having done its step; None if it says it has."""
    match = _FAILED.match(text)
    return text[match.end() :].strip() or text.strip() if match else None


def gives_up(text: str) -> bool:
    """Whether an answer begins by saying that its writer cannot do it or does not know."""
    return _GIVEN_UP.match(text) is not None


def numbered(lines: Sequence[str]) -> str:
    """Lines with numbers from 1."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
