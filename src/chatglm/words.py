"""What the program itself says, in English and Chinese: one table for the terminal and the web pages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
# Control characters other than tab and newline: text of a model, a file or a server must not steer the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

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
    "loading_plain": (
        "Loading the model without an adapter ...",
        "正在加载不带适配器的模型 ……",
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
/tools          list the tools the model may use
/code           let the model run Python from now on, isolated
/set NAME VALUE change how answers are sampled; /set shows it
/model NAME     go on with another model, a folder or hub name
/adapter FOLDER go on with an adapter, LoRA or P-Tuning; - without
/cut            leave out the oldest turns when the context is full
/stats          write the speed of each answer, or no longer
/theme COLOURS  dark, light or none; /theme shows which
/exit           leave; so do the words exit, quit, stop and Ctrl-D

Several lines:  Alt-Enter (or Escape, then Enter) begins a new line;
                so does Enter after a backslash \\ ;
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
/tools          列出模型可以使用的工具
/code           允许模型从现在起运行 Python（隔离）
/set 名称 值    更改采样设置；/set 显示设置
/model 名称     换一个模型（文件夹或 hub 名称）继续
/adapter 文件夹 加上适配器（LoRA 或 P-Tuning）继续；- 表示不加
/cut            上下文已满时省略最早的对话
/stats          显示或不再显示每次回答的速度
/theme 配色     dark、light 或 none；/theme 显示当前配色
/exit           退出；输入 exit、quit、stop 或按 Ctrl-D 也可以

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
        "[stopped before anything was said; {where}]",
        "[还没有说出内容就停止了；{where}]",
    ),
    "said_nothing": (
        "[the model said nothing; {where}]",
        "[模型没有说出内容；{where}]",
    ),
    "said_nothing_once": (
        "[the model said nothing]",
        "[模型没有说出内容]",
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
The conversation is as it was before; {where}.""",
        """\
回答失败：{error}
对话保持原样；{where}。""",
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
        "/clear starts afresh (/save FILE keeps this one first); {where}.",
        "加上这条消息，对话共有 {tokens} 个 token，上限是 {limit}。没有发送任何内容。"
        "/clear 可以重新开始（先用 /save 文件 可以保留这次对话）；{where}。",
    ),
    "on_line": (
        "your message is back on the input line",
        "您的消息已放回输入行",
    ),
    "in_history": (
        "the up arrow brings your message back",
        "按向上键可取回您的消息",
    ),
    "may_cut": (
        "/cut leaves out the oldest turns from now on, and goes on from here.",
        "/cut 会从现在起省略最早的对话，这样可以继续。",
    ),
    "cuts": (
        "From now on the oldest turns are left out when the context is full; /save still writes all of them.",
        "从现在起，上下文已满时会省略最早的对话；/save 仍会保存全部内容。",
    ),
    "cuts_already": (
        "The oldest turns are left out already when the context is full.",
        "上下文已满时已经会省略最早的对话。",
    ),
    "exists": (
        "{path} exists. Nothing was written; the same command once more writes over it.",
        "{path} 已存在，没有写入；再输入一次同样的命令就会覆盖它。",
    ),
    "elsewhere": (
        "The model runs on a server; another one is chosen there.",
        "模型在服务器上运行；请在那里更换。",
    ),
    "acts_elsewhere": (
        "The model runs on a server. Tools, code and files need a model that is loaded here, without --api-base.",
        "模型在服务器上运行。工具、代码和文件需要在本机加载模型，不用 --api-base。",
    ),
    "changed": (
        "{model} goes on with this conversation.",
        "现在由 {model} 继续这次对话。",
    ),
    "no_tools": (
        "The model has no tools. Start with --tools WHICH or --code.",
        "模型没有工具。启动时请加 --tools 或 --code。",
    ),
    "has_code": (
        "interpreter  runs Python",
        "interpreter  运行 Python",
    ),
    "statistics_on": (
        "The speed of each answer is written from now on.",
        "从现在起显示每次回答的速度。",
    ),
    "statistics_off": (
        "The speed of answers is no longer written.",
        "不再显示回答的速度。",
    ),
    "waiting": (
        "waiting for the text on standard input, which is a pipe; add < /dev/null to go on without it",
        "正在等待标准输入（管道）中的文字；如不需要，请加上 < /dev/null",
    ),
    "unwritable": (
        "{count} characters of the answer could not be written in the encoding {encoding} of standard output and "
        "became ?; set PYTHONIOENCODING=utf-8 or a UTF-8 locale",
        "回答中有 {count} 个字符无法用标准输出的编码 {encoding} 写出，已变成 ?；"
        "请设置 PYTHONIOENCODING=utf-8 或 UTF-8 locale",
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
    "folder_missing": (
        "{command} needs the folder of an adapter, or - for none: {command} FOLDER",
        "{command} 需要适配器文件夹，或用 - 表示不加：{command} 文件夹",
    ),
    "model_missing": (
        "{command} needs a folder or hub name: {command} NAME",
        "{command} 需要文件夹或 hub 名称：{command} 名称",
    ),
    "is_folder": (
        "{path} is a folder; the name of a file is needed. Nothing was written.",
        "{path} 是文件夹，这里需要文件名。没有写入任何内容。",
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
        "{command} needs the code interpreter; /code switches it on.",
        "{command} 需要代码解释器；用 /code 打开。",
    ),
    "theme_is": (
        "The theme is {name}; there are {all}.",
        "当前配色是 {name}；可用：{all}。",
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
        "The model wants to use {call}. Allow it? [y/N] ",
        "模型想调用 {call}。允许吗？[y/N] ",
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
    # the web pages
    "web_chat": ("Chat", "对话"),
    "web_tool": ("Tool", "工具"),
    "web_code": ("Code Interpreter", "代码解释器"),
    "web_new": ("New conversation", "新对话"),
    "web_delete": ("Delete", "删除"),
    "web_conversations": ("Conversations", "对话记录"),
    "web_take_along": ("Download", "下载"),
    "web_load": ("Open a file", "打开文件"),
    "web_settings": ("Settings", "设置"),
    "web_system": ("System prompt", "系统提示"),
    "web_system_hint": ("Empty: the official one, where there is one", "留空则使用官方提示（如果有）"),
    "web_temperature": ("Temperature", "温度 temperature"),
    "web_top_p": ("Top P", "核采样 top_p"),
    "web_repetition_penalty": ("Repetition penalty", "重复惩罚"),
    "web_max_new_tokens": ("Tokens at most", "最多 token 数"),
    "web_tools": ("Tools", "工具"),
    "web_tools_here": ("The model may use: {names}", "模型可以使用：{names}"),
    "web_tools_none": ("No tools are offered on the server.", "服务器没有提供工具。"),
    "web_by_hand": ("Your own tools", "自己的工具"),
    "web_by_hand_hint": (
        "Tools in YAML or JSON. The model calls them, and you type the result.",
        "用 YAML 或 JSON 写工具。模型调用后，由您输入结果。",
    ),
    "web_apply": ("Apply", "应用"),
    "web_tools_set": ("Your own tools: {count}", "自己的工具：{count} 个"),
    "web_retry": ("Try again", "重试"),
    "web_undo": ("Take back", "撤回"),
    "web_clear": ("Clear", "清空"),
    "web_edit": ("Edit", "编辑"),
    "web_leave": ("Leave it", "取消"),
    "web_send": ("Send", "发送"),
    "web_stop": ("Stop", "停止"),
    "web_write": ("Write a message; Enter sends it", "输入消息，按回车发送"),
    "web_result": ("Type the result of {name} and press Enter", "输入 {name} 的结果，按回车"),
    "web_ask": ("The model wants to use **{name}**. Allow it?", "模型想使用 **{name}**，允许吗？"),
    "web_allow": ("Allow", "允许"),
    "web_refuse": ("Do not allow", "不允许"),
    "web_result_of": ("Result", "结果"),
    "web_counter": (
        "{new} tokens, {speed} tokens/s, first after {first} s; context {tokens} of {limit}",
        "{new} 个 token，每秒 {speed} 个，首个用时 {first} 秒；上下文 {tokens} / {limit}",
    ),
    "web_code_kept": (
        "Variables of the interpreter stay as they are.",
        "解释器里的变量保持不变。",
    ),
    "web_no_code": (
        "There is no code interpreter: {reason}",
        "没有代码解释器：{reason}",
    ),
    "web_mended": (
        "The list of conversations was damaged. It was made anew from the conversations themselves, and the damaged "
        "one is kept as {name}.",
        "对话列表已损坏，已根据各个对话重新生成；损坏的列表保留为 {name}。",
    ),
    "web_given_back": (
        "There was no answer; your message is back on the input line.",
        "没有得到回答；您的消息已放回输入框。",
    ),
    "web_ready": ("{model} is ready at {url} (Ctrl-C ends it)", "{model} 已就绪：{url}（按 Ctrl-C 结束）"),
    "web_open_to_all": (
        "anybody who reaches {host}:{port} can use this model and its tools; ask for passwords with --auth-file",
        "能访问 {host}:{port} 的任何人都能使用这个模型和它的工具；可用 --auth-file 要求密码",
    ),
    "command_wrong": (
        "{program}: error: {message}\nSee: {program} --help",
        "{program}：错误：{message}\n参见：{program} --help",
    ),
    "program_wrong": (
        "chatglm: error: {message}",
        "chatglm：错误：{message}",
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
    "data_rows": (
        "{rows:,} good rows ({kinds}), {bad:,} bad",
        "有效 {rows:,} 行（{kinds}），有误 {bad:,} 行",
    ),
    "data_lengths": (
        "tokens: {total:,}, of which {learned:,} are learned; a row has {least:,} to {most:,}, half of them at most "
        "{half:,}, 90 % at most {ninety:,}, 99 % at most {ninety_nine:,}",
        "token 共 {total:,} 个，其中参与学习 {learned:,} 个；每行 {least:,} 至 {most:,} 个，"
        "半数不超过 {half:,}，90% 不超过 {ninety:,}，99% 不超过 {ninety_nine:,}",
    ),
    "data_cut": (
        "{count:,} rows are cut at {limit:,} tokens: {named}",
        "{count:,} 行超过 {limit:,} 个 token，被截断：{named}",
    ),
    "data_unused": (
        "keys that say nothing here: {keys}",
        "没有用到的键：{keys}",
    ),
    "data_bad": (
        "bad rows:",
        "有误的行：",
    ),
    "data_sample": (
        "sample {number} (what is learned is green, or between [[ and ]]):",
        "样本 {number}（参与学习的部分为绿色，或在 [[ 和 ]] 之间）：",
    ),
    "data_labels": (
        "labels: {labels}",
        "标签：{labels}",
    ),
    "data_written": (
        "Wrote {count:,} rows to {file}",
        "已把 {count:,} 行写入 {file}",
    ),
    "train_rows": (
        "{file}: {rows:,} examples, {tokens:,} tokens",
        "{file}：样本 {rows:,} 个，token {tokens:,} 个",
    ),
    "train_pairs": (
        "{file}: {rows:,} pairs, {tokens:,} tokens",
        "{file}：样本对 {rows:,} 个，token {tokens:,} 个",
    ),
    "train_skipped": (
        "{count:,} bad rows are left out:",
        "跳过有误的 {count:,} 行：",
    ),
    "train_no_eval": (
        "{file} holds no row to measure on; there is no evaluation",
        "{file} 中没有可用于评估的行，不做评估",
    ),
    "train_no_rouge": (
        "answers are compared as a whole and as calls; rouge and bleu need pip install 'chatglm[metrics]'",
        "只比较整条回答和工具调用；rouge 和 bleu 需要 pip install 'chatglm[metrics]'",
    ),
    "train_memory": (
        "memory at the peak, about: {total} GB (weights {weights}, gradients and optimizer {learning}, activations "
        "{activations}, scores {scores})",
        "预计内存峰值：{total} GB（权重 {weights}，梯度与优化器 {learning}，激活 {activations}，打分 {scores}）",
    ),
    "train_note": (
        "has no meaning here: {note}",
        "此处没有意义：{note}",
    ),
    "train_step": (
        "step {step}/{steps}  loss {loss}  rate {rate}  left {left}",
        "步 {step}/{steps}  损失 {loss}  学习率 {rate}  剩余 {left}",
    ),
    "train_eval": (
        "evaluation: {measured}",
        "评估：{measured}",
    ),
    "train_saved": (
        "checkpoint of step {step} is written",
        "已写入第 {step} 步的检查点",
    ),
    "train_done": (
        "Done after {steps:,} steps. Wrote {out}",
        "共 {steps:,} 步，已完成，写入 {out}",
    ),
    "train_paused": (
        "The hours are over after {steps:,} steps; --resume goes on. Wrote {out}",
        "时间用完，已训练 {steps:,} 步；用 --resume 继续。写入 {out}",
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

# kind of a notice -> its sentence
NOTICES = {"history_cut": "left_out", "no_room": "no_room", "restarted": "restarted", "failed": "task_failed"}


# What is wrong with a command line, a model or a tool, as the rooms below say it, and in Chinese: what people meet
# most. The first that fits is taken; what stands in no line is told in English.
ERRORS: tuple[tuple[str, str], ...] = (
    # the command line
    ("a command is missing", "缺少命令"),
    ("unknown option {option}; did you mean {near}?", "没有选项 {option}；是不是 {near}？"),
    ("unknown option {option}", "没有选项 {option}"),
    ("unexpected argument {argument}; put text with blanks in quotes", "多余的参数 {argument}；含空格的文本请加引号"),
    ("the following arguments are required: {names}", "缺少参数：{names}"),
    ("argument {name}: unknown value {value}; did you mean {near}?", "参数 {name}：没有值 {value}；是不是 {near}？"),
    ("argument {name}: unknown value {value}; it must be one of: {all}", "参数 {name}：没有值 {value}；可选：{all}"),
    ("argument {name}: expected one argument", "参数 {name} 后面需要一个值"),
    ("argument {name}: expected at least one argument", "参数 {name} 后面至少需要一个值"),
    ("argument {name}: invalid int value: {value}", "参数 {name}：{value} 不是整数"),
    ("argument {name}: invalid float value: {value}", "参数 {name}：{value} 不是数"),
    ("argument {name}: {what} is {value}; it must be {right}", "参数 {name}：{what} 是 {value}；应为 {right}"),
    ("{name} is {value}; it must be 0 or more", "{name} 是 {value}；应不小于 0"),
    ("{name} is {value}; it must be above 0 and at most 1", "{name} 是 {value}；应大于 0 且不超过 1"),
    ("{name} is {value}; it must be at least 1 token", "{name} 是 {value}；至少为 1 个 token"),
    ("{name} is {value}; it must be from {least} to {most}", "{name} 是 {value}；应在 {least} 到 {most} 之间"),
    ("{name} is {value}; it must be a folder that exists", "{name} 是 {value}；应为已存在的文件夹"),
    ("{name} has no meaning without the code interpreter; add --code", "{name} 只与代码解释器一起使用；请加 --code"),
    ("{name} has no meaning without a server; add --api-base URL", "{name} 只与服务器一起使用；请加 --api-base URL"),
    (
        "{name} is for a model that is loaded here; leave it or --api-base out",
        "{name} 用于在本机加载的模型；请去掉它或 --api-base",
    ),
    (
        "--greedy always takes the likeliest token, so {names} would do nothing; leave one out",
        "--greedy 总是选择最可能的 token，{names} 不起作用；请去掉其中一个",
    ),
    (
        "standard output is no terminal, so there is nobody to talk to; give a PROMPT or pipe one in",
        "标准输出不是终端，无法对话；请给出 PROMPT 或用管道传入",
    ),
    ("{what} is empty; it must be a message to answer", "{what} 是空的；应为要回答的消息"),
    (
        "there is no TASK; say what is to be done, or give --replay FILE",
        "缺少 TASK；请说明要做什么，或用 --replay FILE",
    ),
    (
        "nothing can listen at {place}: {reason}; choose another --port or --host",
        "无法监听 {place}：{reason}；请换一个 --port 或 --host",
    ),
    (
        "{purpose} needs the package {package}. Install it with: {command}",
        "{purpose} 需要软件包 {package}。安装：{command}",
    ),
    # models
    (
        "no folder {name} on this machine, and it is no hub name either (those look like owner/model)",
        "本机没有文件夹 {name}，它也不是 hub 名称（形如 所有者/模型）",
    ),
    (
        "there is no folder {name} here, no complete copy in the cache, and {hub} cannot give it: {reason}\n"
        "What helps: {advice}",
        "本机没有文件夹 {name}，缓存中没有完整副本，{hub} 也无法提供：{reason}\n"
        "可以：给出模型所在文件夹的路径；用 --hub 或 CHATGLM_HUB=modelscope 换一个 hub；用 HF_ENDPOINT 指定镜像；"
        "检查网络和名称。",
    ),
    ("{folder} has no config.json; found an empty folder", "{folder} 中没有 config.json；它是空文件夹"),
    ("{folder} has no config.json; found {names}", "{folder} 中没有 config.json；其中有 {names}"),
    (
        "{folder} has no tokenizer.model (ChatGLM-6B: ice_text.model); copy it there from the base model "
        "(or, in Python, pass tokenizer=FOLDER)",
        "{folder} 中没有 tokenizer.model（ChatGLM-6B：ice_text.model）；请从基座模型复制到那里"
        "（在 Python 中也可传入 tokenizer=文件夹）",
    ),
    (
        "{folder} is not a folder; a {kind} is a folder with config.json and weight files",
        ("{folder} 不是文件夹；模型是含有 config.json 和权重文件的文件夹"),
    ),
    (
        "no weights in {folder}: expected one of {names}; found an empty folder",
        "{folder} 中没有权重：应有 {names} 之一",
    ),
    (
        "no weights in {folder}: expected one of {names}; found {present}",
        "{folder} 中没有权重：应有 {names} 之一；其中有 {present}",
    ),
    ("{name} is a file; give the folder it lies in ({folder})", "{name} 是文件；请给出它所在的文件夹（{folder}）"),
    (
        "{name} is a GGUF file, which llama.cpp and its relatives run; give the model folder it was made of",
        "{name} 是 GGUF 文件，供 llama.cpp 一类程序使用；请给出制作它的模型文件夹",
    ),
    (
        "{file} is a git-lfs pointer of {size} bytes, not the file itself; run `git lfs pull` in that folder, or "
        "download it from the hub",
        "{file} 只是 {size} 字节的 git-lfs 指针，不是文件本身；请在该文件夹运行 git lfs pull，或从 hub 下载",
    ),
    ("{file} is missing; a weight file of that name was asked for (by an index, or by you)", "缺少权重文件 {file}"),
    ("{file} is empty (0 bytes); download it again", "{file} 是空的（0 字节）；请重新下载"),
    ("{file} is not a safetensors file: it starts with {start}", "{file} 不是 safetensors 文件：它以 {start} 开头"),
    (
        "{file} is truncated: it has {size} of {whole} bytes; the first tensor cut off is {name}. Download it again",
        "{file} 不完整：应有 {whole} 字节，只有 {size} 字节；第一个缺损的张量是 {name}。请重新下载",
    ),
    ("{file} is truncated: {what}", "{file} 不完整：{what}"),
    ("{file} has a damaged header: {what}", "{file} 的文件头已损坏：{what}"),
    ("{file} has a damaged header ({what})", "{file} 的文件头已损坏（{what}）"),
    (
        "{file} has {size} bytes where its header describes {whole}; it is damaged",
        "{file} 有 {size} 字节，而文件头描述的是 {whole}；文件已损坏",
    ),
    ("device is {device}; it must be one that is here: {all}", "device 是 {device}；本机可用的有：{all}"),
    (
        "the weights of {folder} need {needed} GB of memory, {free} GB are free; {advice}",
        "{folder} 的权重需要 {needed} GB 内存，空闲 {free} GB；可用 --quantize int4，"
        "或用 chatglm quantize 写出更小的文件夹",
    ),
    ("{server} does not answer: {reason}; is it running?", "{server} 没有响应：{reason}；它在运行吗？"),
    # tools and files
    ("there is no built-in tool {name}; did you mean {near}?", "没有内置工具 {name}；是不是 {near}？"),
    ("there is no built-in tool {name}; there are {all}", "没有内置工具 {name}；有 {all}"),
    (
        "there is no file {name}; tools come from a .py file or an mcp.json",
        "没有文件 {name}；工具来自 .py 文件或 mcp.json",
    ),
    (
        "{file} has no tools; mark functions with @tool from chatglm.tools",
        "{file} 中没有工具；请用 chatglm.tools 的 @tool 标记函数",
    ),
    (
        "{file} is neither a .py file with tools nor a .json file with mcpServers",
        "{file} 既不是含工具的 .py 文件，也不是含 mcpServers 的 .json 文件",
    ),
    ("{file} cannot be run: {reason}", "{file} 无法运行：{reason}"),
    ("the file {file} cannot be uploaded: {reason}", "文件 {file} 无法上传：{reason}"),
    ("{file} is not valid JSON: {reason}", "{file} 不是有效的 JSON：{reason}"),
    ("{file} is not JSON: {reason}", "{file} 不是 JSON：{reason}"),
    ("{file} cannot be read: {reason}", "{file} 无法读取：{reason}"),
    ("{file} cannot be written: {reason}", "{file} 无法写入：{reason}"),
    ("{file}: No such file or directory", "{file}：没有这个文件或文件夹"),
    ("{file}: Permission denied", "{file}：没有权限"),
    ("{file}: No space left on device", "{file}：磁盘已满"),
    # a page or a chat
    ("there is no theme {name}; there are {all}", "没有配色 {name}；可用：{all}"),
    ("an answer is being written; wait for its end, or stop it", "正在生成回答；请等它结束，或先停止"),
    ("the message is empty; write something", "消息是空的；请输入内容"),
    ("files are for the code interpreter; choose that mode first", "文件用于代码解释器；请先选择该模式"),
    ("this page belongs to another visitor; load it again", "此页面属于另一位访问者；请重新加载"),
    ("there are {count} visitors, which is the most; come back later", "已有 {count} 位访问者，达到上限；请稍后再来"),
    ("nothing waits for this answer any more", "已经没有等待这个回答的步骤"),
    ("there is no setting {name}; it must be one of: {all}", "没有设置 {name}；可用：{all}"),
    ("{word} is {value}; it must be {right}", "{word} 是 {value}；应为 {right}"),
)


@cache
def _errors() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_pattern(english), chinese) for english, chinese in ERRORS)


def _pattern(english: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", english)
    wanted = {"word": r"(?!there )\S+"}  # of others anything
    filled = [
        re.escape(part) if place % 2 == 0 else f"(?P<{part}>{wanted.get(part, '.+?')})"
        for place, part in enumerate(parts)
    ]
    return re.compile("".join(filled), re.DOTALL)


@dataclass(frozen=True)
class Words:
    """The table in one language. `words("saved", count=2, path="a.json")` is a sentence."""

    language: Language = "en"

    def __call__(self, name: str, /, **values: object) -> str:
        return SENTENCES[name][LANGUAGES.index(self.language)].format(**values)

    def notice(self, kind: str, *, count: int = 0, reason: str = "") -> str:
        """What a turn or a task tells besides; the values are those of the event."""
        if kind == "restarted" and reason:
            reason = f": {reason}"
        return self(NOTICES[kind], count=count, reason=reason)

    def error(self, message: str) -> str:
        """What is wrong, as the rooms below say it in English."""
        for pattern, chinese in _errors() if self.language == "zh" else ():
            if (found := pattern.fullmatch(message)) is not None:
                return chinese.format(**found.groupdict())
        return message

    def ending(self, name: str) -> str:
        """A word the program uses for itself - how a turn, a task or a call ended."""
        return _ENDINGS.get(name, name) if self.language == "zh" else name


def printable(text: str) -> str:
    """The text without the control characters a terminal would obey."""
    return _CONTROL.sub("", text)


def choose(language: str | None = None, environment: Mapping[str, str] = os.environ) -> Words:
    """The words of a language ("en" or "zh"), or of the locale's, or English."""
    if language is None:
        # The order in which POSIX reads them; the first one that is set decides.
        wanted = [environment.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
        language = "zh" if next(filter(None, wanted), "").lower().startswith("zh") else "en"
    return Words("zh" if language == "zh" else "en")


def of_browser(languages: str) -> Words:
    """The words of the first language of an Accept-Language header that there is."""
    for item in languages.lower().split(","):
        for language in LANGUAGES:
            if item.strip().startswith(language):
                return Words(language)
    return Words()
