"""What the program itself says, in English and Chinese: one table for the terminal and the web pages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

# name -> English, Chinese. Placeholders are filled with `str.format`.
SENTENCES: dict[str, tuple[str, str]] = {
    "real_weights": (
        "To run real weights, leave and use --model FOLDER_OR_NAME.",
        "要运行真正的权重，请退出后用 --model 指定文件夹或名称。",
    ),
    "loading": (
        "Loading {model} ...",
        "正在加载 {model} ……",
    ),
    "ready": (
        "{model} is ready. Type a message and press Enter. /help shows the commands, /exit or Ctrl-D leaves.",
        "{model} 已就绪。输入消息后按回车发送；/help 显示命令，/exit 或 Ctrl-D 退出。",
    ),
    "help": (
        """\
/clear          forget the conversation (the system prompt stays); the word clear does the same
/system TEXT    set the system prompt; without TEXT show it; /system - removes it
/save FILE      write the conversation to a JSON file
/load FILE      go on with a saved conversation
/retry          have the last message answered again
/undo           take back the last message and its answer
/upload FILE    give a file to the code interpreter (with --code); the next message tells the model
/files          list the code interpreter's files
/get FILE       save one of them here
/tokens         how much of the model's context the conversation takes
/help           show this
/exit           leave; so do the word stop and Ctrl-D

Several lines:  Alt-Enter (or Escape, then Enter) begins a new line; so does Enter after a backslash \\ ;
                or put the message between two lines of \"\"\"
Stop an answer: Ctrl-C. What came so far stays in the conversation.
Earlier input:  the arrow keys; Ctrl-R searches.
A message that begins with a slash: begin it with two, //like this.""",
        """\
/clear          忘记对话（保留系统提示）；输入 clear 也可以
/system 文本    设置系统提示；不带文本则显示；/system - 删除
/save 文件      把对话写入 JSON 文件
/load 文件      继续已保存的对话
/retry          重新回答最后一条消息
/undo           撤回最后一条消息和它的回答
/upload 文件    把文件交给代码解释器（需要 --code）；下一条消息会告诉模型
/files          列出代码解释器里的文件
/get 文件       把其中一个保存到这里
/tokens         对话占用了模型上下文的多少
/help           显示本帮助
/exit           退出；输入 stop 或按 Ctrl-D 也可以

多行输入：Alt-Enter（或先按 Esc 再按回车）换行；行末写反斜杠 \\ 再按回车也是换行；
          或者把消息放在两行 \"\"\" 之间
停止回答：Ctrl-C，已经生成的部分留在对话里
以前的输入：方向键；Ctrl-R 搜索
消息以斜杠开头：写两个斜杠，//像这样""",
    ),
    "leave_hint": (
        "To leave press Ctrl-C again, Ctrl-D, or type /exit.",
        "要退出，请再按一次 Ctrl-C，或按 Ctrl-D，或输入 /exit。",
    ),
    "stopped": (
        "[stopped; what came so far is kept]",
        "[已停止；已经生成的部分保留]",
    ),
    "stopped_at_once": (
        "[stopped before anything was said; your message is back on the input line]",
        "[还没有说出内容就停止了；您的消息已放回输入行]",
    ),
    "said_nothing": (
        "[the model said nothing; your message is back on the input line]",
        "[模型没有说出内容；您的消息已放回输入行]",
    ),
    "limit_reached": (
        "[cut off at the token limit; /tokens shows how much room is left]",
        "[到达长度上限，回答被截断；/tokens 显示还剩多少]",
    ),
    "limit_reached_once": (
        "[the answer was cut off at the token limit]",
        "[回答到达长度上限，被截断]",
    ),
    "failed": (
        """\
The answer failed: {error}
The conversation is as it was before; your message is back on the input line.""",
        """\
回答失败：{error}
对话保持原样；您的消息已放回输入行。""",
    ),
    "failed_midway": (
        """\
The answer broke off: {error}
What came so far stays in the conversation.""",
        """\
回答中断：{error}
已经生成的部分留在对话里。""",
    ),
    "too_long": (
        "The conversation with this message has {tokens} tokens, the limit is {limit}. Nothing was sent. "
        "/clear starts afresh (/save FILE keeps this one first); your message is back on the input line.",
        "加上这条消息，对话共有 {tokens} 个 token，上限是 {limit}。没有发送任何内容。"
        "/clear 可以重新开始（先用 /save 文件 可以保留这次对话）；您的消息已放回输入行。",
    ),
    "unknown": (
        "There is no command {command}.{suggestion} /help lists them all. Nothing was sent; "
        "to send text that begins with a slash, begin it with two.",
        "没有命令 {command}。{suggestion}/help 列出全部命令。没有发送任何内容；要发送以斜杠开头的文字，请写两个斜杠。",
    ),
    "did_you_mean": (
        " Did you mean {command}?",
        "是不是 {command}？",
    ),
    "cleared": (
        "The conversation is forgotten.",
        "对话已忘记。",
    ),
    "system_is": (
        "System prompt: {text}",
        "系统提示：{text}",
    ),
    "system_none": (
        "There is no system prompt. /system TEXT sets one.",
        "没有系统提示。用 /system 文本 设置。",
    ),
    "system_set": (
        "The system prompt is set.",
        "系统提示已设置。",
    ),
    "system_removed": (
        "The system prompt is removed.",
        "系统提示已删除。",
    ),
    "file_missing": (
        "{command} needs the name of a file: {command} FILE",
        "{command} 需要文件名：{command} 文件",
    ),
    "saved": (
        "Saved {count} messages to {path}.",
        "已将 {count} 条消息保存到 {path}。",
    ),
    "loaded": (
        "Loaded {count} messages from {path}.",
        "已从 {path} 读入 {count} 条消息。",
    ),
    "other_vocabulary": (
        "They were made with another vocabulary; their text is encoded anew.",
        "它们来自另一个词表；文本将重新编码。",
    ),
    "nothing_to_retry": (
        "There is no answer to try again.",
        "没有可以重新生成的回答。",
    ),
    "nothing_to_undo": (
        "There is nothing to take back.",
        "没有可以撤回的消息。",
    ),
    "undone": (
        "Taken back: {text}",
        "已撤回：{text}",
    ),
    "tokens": (
        "{tokens} of {limit} tokens are taken by {count} messages.",
        "{count} 条消息占用 {tokens} 个 token，上限 {limit}。",
    ),
    "no_history_file": (
        "Input history is not kept: {error}",
        "输入历史不会保存：{error}",
    ),
    "no_argument": (
        "{command} takes nothing after it, but {argument!r} stood there. Nothing was done.",
        "{command} 后面不应有内容，却看到 {argument!r}。没有执行任何操作。",
    ),
    "needs_code": (
        "{command} needs the code interpreter; start with --code.",
        "{command} 需要代码解释器；启动时请加 --code。",
    ),
    "uploaded": (
        "{name} ({size} bytes) is at /mnt/data/{name}; your next message tells the model.",
        "{name}（{size} 字节）已放到 /mnt/data/{name}；您的下一条消息会告诉模型。",
    ),
    "no_files": (
        "There are no files under /mnt/data.",
        "/mnt/data 下没有文件。",
    ),
    "fetched": (
        "Saved {name} to {path}.",
        "已将 {name} 保存到 {path}。",
    ),
    "figure": (
        "[figure saved as {path}]",
        "[图片已保存为 {path}]",
    ),
    "no_figure": (
        "[a figure could not be saved: {error}]",
        "[图片无法保存：{error}]",
    ),
    "produced": (
        "[file /mnt/data/{name}, {size} bytes; /get {name} saves it here]",
        "[文件 /mnt/data/{name}，{size} 字节；用 /get {name} 保存到这里]",
    ),
    "result_of": (
        "[{name}: {status}, {seconds} s]",
        "[{name}：{status}，{seconds} 秒]",
    ),
    "more_characters": (
        "[{count} more characters]",
        "[还有 {count} 个字符]",
    ),
    "ask": (
        "The model wants to use {name}({arguments}). Allow it? [y/N] ",
        "模型想调用 {name}({arguments})。允许吗？[y/N] ",
    ),
    "refused": (
        "[not allowed: {name}]",
        "[未允许：{name}]",
    ),
    "turn_over": (
        "[ended: {reason}]",
        "[已结束：{reason}]",
    ),
    "plan": (
        """\
Plan:
{steps}""",
        """\
计划：
{steps}""",
    ),
    "step": (
        "--- step {number}: {text}",
        "--- 第 {number} 步：{text}",
    ),
    "step_failed": (
        "--- step {number} failed: {text}",
        "--- 第 {number} 步失败：{text}",
    ),
    "task_over": (
        "[{reason}: {steps} steps, {revisions} changes of the plan, {seconds} s]",
        "[{reason}：{steps} 步，计划修改 {revisions} 次，{seconds} 秒]",
    ),
    "replay_same": (
        "[the same now]",
        "[现在结果相同]",
    ),
    "replay_different": (
        """\
[different now]
{text}""",
        """\
[现在结果不同]
{text}""",
    ),
    "statistics": (
        "{prompt} prompt tokens, first token after {first} s; {new} tokens in {total} s, {speed} tokens/s",
        "提示 {prompt} 个 token，首个 token 用时 {first} 秒；{total} 秒内生成 {new} 个 token，每秒 {speed} 个",
    ),
    "left_out": (
        "[the context is full: the {count} oldest turns were left out]",
        "[上下文已满：省略了最早的 {count} 轮对话]",
    ),
    "no_room": (
        "[the turn has filled the context; it ends here]",
        "[这一轮已经填满上下文，到此结束]",
    ),
    "restarted": (
        "[the code interpreter was restarted and its variables are gone{reason}]",
        "[代码解释器已重新启动，变量已丢失{reason}]",
    ),
    "task_failed": (
        "[broken off: {reason}]",
        "[中断：{reason}]",
    ),
    "too_long_once": (
        "the prompt has {tokens} tokens; with its answer it must stay within {limit}",
        "提示有 {tokens} 个 token；连同回答不得超过 {limit}",
    ),
    "time_left": (
        "{time} left",
        "还需 {time}",
    ),
    "no_labels": (
        "no score: the labels are withheld",
        "没有得分：标签未公开",
    ),
    "of_items": (
        "{items} of {of} items",
        "{of} 题中的 {items} 题",
    ),
    "reports_in": (
        "The report is in {folder}: report.md, report.json and pictures; every answer in items/.",
        "报告在 {folder}：report.md、report.json 和图片；全部回答在 items/ 中。",
    ),
    "compared": (
        "{items} items, {better} better, {worse} worse; {only} in one run only",
        "共 {items} 题，{better} 题变好，{worse} 题变差；只在一次运行中的有 {only} 题",
    ),
    "count_malformed": ("malformed rows", "格式有误的行"),
    "count_withheld": ("labels withheld", "标签未公开"),
    "count_silent": ("nothing written", "没有写出内容"),
    "count_unfound": ("no answer found", "没有找到答案"),
    "count_shortened": ("prompts shortened", "提示被缩短"),
    "count_cut": ("cut at the limit", "到达长度上限"),
    "count_refused": ("refused", "被拒绝"),
    "report_title": (
        "Evaluation of {model}",
        "{model} 的评测",
    ),
    "report_scores": (
        "scores",
        "得分",
    ),
    "report_columns": (
        "benchmark|protocol|score|95 % interval|items|reported for others (see below)",
        "基准|协议|得分|95 % 区间|题数|其他模型的公布值（见下）",
    ),
    "report_perplexity": (
        "Perplexity",
        "困惑度",
    ),
    "report_speed": (
        "Speed and memory of the last run",
        "最近一次运行的速度与内存",
    ),
    "report_source": (
        "Source",
        "来源",
    ),
    "report_licence": (
        "licence",
        "许可证",
    ),
    "report_protocol": (
        "The protocol:",
        "协议：",
    ),
    "bench_columns": (
        "what|measured|limit of the memory|share",
        "项目|实测|内存上限|占比",
    ),
    "bench_load": (
        "loading",
        "加载",
    ),
    "bench_weights": (
        "weights; peak memory of the process",
        "权重；进程内存峰值",
    ),
    "bench_rate": (
        "memory read by all threads",
        "全部线程读内存",
    ),
    "bench_prompt": (
        "a prompt of {tokens} tokens",
        "{tokens} 个 token 的提示",
    ),
    "bench_decode": (
        "decoding, {count} at once, behind {tokens} tokens",
        "在 {tokens} 个 token 之后解码，同时 {count} 个",
    ),
    "report_published": (
        "The scores of other models",
        "其他模型的得分",
    ),
}

# How a turn, a task or a call ended. In English the word is the name itself.
_ENDINGS = {
    "abort": "已停止",
    "done": "完成",
    "error": "出错",
    "errors": "错误调用太多",
    "failed": "失败",
    "invalid": "调用有误",
    "killed": "被强制结束",
    "ok": "成功",
    "refused": "未允许",
    "rounds": "轮数用完",
    "seconds": "时间用完",
    "steps": "步数用完",
    "stopped": "已停止",
    "timeout": "超时",
    "tokens": "token 用完",
}


@dataclass(frozen=True)
class Words:
    """The table in one language. `words("saved", count=2, path="a.json")` is a sentence."""

    language: Language = "en"

    def __call__(self, name: str, /, **values: object) -> str:
        return SENTENCES[name][LANGUAGES.index(self.language)].format(**values)

    def ending(self, name: str) -> str:
        """A word the program uses for itself - how a turn, a task or a call ended."""
        return _ENDINGS.get(name, name) if self.language == "zh" else name


def choose(language: str | None = None, environment: Mapping[str, str] = os.environ) -> Words:
    """The words of a language ("en" or "zh"), or of the locale's, or English."""
    if language is None:
        # The order in which POSIX reads them; the first one that is set decides.
        wanted = [environment.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
        language = "zh" if next(filter(None, wanted), "").lower().startswith("zh") else "en"
    return Words("zh" if language == "zh" else "en")
