"""The help of the command line in Chinese: by the English text, which stands beside each option.

A test compares the two: a text that is new or has changed there has to be told anew here.
"""

CHINESE: dict[str, str] = {
    # the program and its commands
    "Run ChatGLM3-6B and ChatGLM2-6B on today's PyTorch and transformers.": (
        "在当前的 PyTorch 和 transformers 上运行 ChatGLM3-6B 和 ChatGLM2-6B。"
    ),
    "positional arguments": "位置参数",
    "options": "选项",
    "commands": "命令",
    "show this help message and exit": "显示本帮助并退出",
    "print the version and leave": "显示版本并退出",
    "show where an error came from": "出错时显示来源（调用栈）",
    "talk to a model": "与模型对话",
    "have a task planned and carried out": "让模型规划并完成一项任务",
    "answer over HTTP in the OpenAI format": "以 OpenAI 格式提供 HTTP 服务",
    "answer a file of requests": "批量回答文件中的请求",
    "talk to a model in the browser": "在浏览器中与模型对话",
    "run code in an isolated interpreter for another program": "为其他程序在隔离的解释器中运行代码",
    "tell what of this machine can be used, and how code can be isolated": "检查本机可用的资源以及代码的隔离方式",
    "tell what a model is: variant, size, context, memory needs": "介绍模型：版本、大小、上下文、内存需求",
    "rewrite a model folder in another layout": "把模型文件夹改写成另一种格式",
    "write a model folder with smaller weights": "写出权重更小（量化）的模型文件夹",
    "score a model on public benchmarks, with the protocol beside each number": "在公开基准上评测模型，每个分数注明协议",
    "measure how fast a model runs on this machine": "测量模型在本机上的速度",
    "tell how well a model foresees a text": "计算模型在一段文本上的困惑度",
    "teach a model by examples": "用样本微调模型",
    "train all weights on texts or conversations": "用文本或对话训练全部权重",
    "write a model folder with an adapter inside": "把适配器合并进模型文件夹",
    "check or convert rows to train on": "检查或转换训练数据",
    "list or remove the quantized copies that --quantize keeps": "列出或删除 --quantize 保留的量化副本",
    # chat
    "Talk to a model. With a PROMPT, or with text piped in, the answer alone is written to standard output.": (
        "与模型对话。给出 PROMPT 或用管道传入文本时，只把回答写到标准输出。"
    ),
    "one message to answer; - reads it from standard input": "要回答的一条消息；- 表示从标准输入读取",
    "folder or hub name (default: the embedded tiny model)": "文件夹或 hub 名称（默认：内置的小模型）",
    "server": "服务器",
    "ask a server in the OpenAI format that runs already, such as http://127.0.0.1:8000/v1; --model is then a name of its "
    "list": "使用已在运行的 OpenAI 格式服务器，例如 http://127.0.0.1:8000/v1；此时 --model 是其列表中的名称",
    "environment variable with the server's API key": "保存服务器 API 密钥的环境变量名",
    "loading": "加载",
    "where hub names are looked up": "在哪里查找 hub 名称",
    "cpu, cuda, cuda:1, mps, ... (default: the best there is)": "cpu、cuda、cuda:1、mps 等（默认：最好的可用设备）",
    "number format of the weights; auto: as stored (default: what fits the device)": (
        "权重的数值格式；auto：与存储相同（默认：适合设备的格式）"
    ),
    "int4, int8, int4-g64, int4-g128, int4-rowwise (the official format), ... (default: as stored)": (
        "int4、int8、int4-g64、int4-g128、int4-rowwise（官方格式）等（默认：与存储相同）"
    ),
    "neither use nor keep a quantized copy (chatglm cache lists what is kept)": (
        "既不使用也不保留量化副本（chatglm cache 列出已保留的副本）"
    ),
    "LoRA folder or hub name to attach": "要挂载的 LoRA 文件夹或 hub 名称",
    "P-Tuning v2 file or folder": "P-Tuning v2 文件或文件夹",
    "what rope_ratio acts on, for a folder that does not tell (ChatGLM3: base, ChatGLM2: position)": (
        "文件夹未说明时 rope_ratio 作用于什么（ChatGLM3：base，ChatGLM2：position）"
    ),
    "sampling": "采样",
    "0 is greedy, higher is more varied (default: 0.8)": "0 为贪心，越高越多样（默认：0.8）",
    "keep the likeliest tokens up to this share (default: 0.8)": "保留概率之和达到该值的最可能 token（默认：0.8）",
    "keep the N likeliest tokens (default: all)": "保留最可能的 N 个 token（默认：全部）",
    "above 1 makes repeating less likely (default: off)": "大于 1 时减少重复（默认：不使用）",
    "tokens of one answer (default: no limit)": "一次回答的 token 数（默认：不限）",
    "tokens of conversation and answer (default: the model's context)": "对话加回答的 token 数（默认：模型的上下文长度）",
    "the same seed gives the same answers": "相同的种子得到相同的回答",
    "always take the likeliest token": "总是选择最可能的 token",
    "conversation": "对话",
    "system prompt": "系统提示",
    "go on with a conversation written by /save": "继续用 /save 保存的对话",
    "write tokens per second to standard error": "把每秒 token 数写到标准错误",
    "plain text only (also: the variable NO_COLOR)": "只用纯文本（也可设置环境变量 NO_COLOR）",
    "colours for a dark or a light window, or none (default: what the terminal tells of itself, or dark)": (
        "深色或浅色窗口的配色，或不用颜色（默认：按终端自报的背景，否则 dark）"
    ),
    "language of the program's own messages (default: the locale)": "程序自身消息的语言（默认：按区域设置）",
    "tools and code": "工具与代码",
    "a .py file with functions marked by tool (it is run with your rights; FILE.py:NAME takes one of them), a .json file "
    "that names MCP servers, or built-in tools such as calculator,current_time,weather,web_fetch:docs.python.org (the host "
    "it may ask); may be given several times": (
        "含有用 tool 标记的函数的 .py 文件（以您的权限运行；FILE.py:NAME 只取其中一个）、列出 MCP 服务器的 .json 文件，"
        "或内置工具，如 calculator,current_time,weather,web_fetch:docs.python.org（允许访问的主机）；可多次给出"
    ),
    "let the model run Python in an isolated interpreter": "允许模型在隔离的解释器中运行 Python",
    "put a file before the interpreter; may be given several times": "把文件交给解释器；可多次给出",
    "where figures and fetched files are saved (default: the current folder)": "图片和取回的文件保存在哪里（默认：当前文件夹）",
    "how code is isolated (default: the strongest that works here; chatglm doctor tells which do)": (
        "代码的隔离方式（默认：本机可用的最强方式；chatglm doctor 列出可用的）"
    ),
    "run code that a model has written with all your rights, isolated from nothing": (
        "以您的全部权限运行模型写的代码，没有任何隔离"
    ),
    # agent
    "Have a task planned and carried out with tools and code. The final answer is written to standard output, everything "
    "else to standard error. Exit status 1: the task was not done to its end.": (
        "让模型用工具和代码规划并完成一项任务。最终回答写到标准输出，其余写到标准错误。退出状态 1：任务没有完成。"
    ),
    "task": "任务",
    "what is to be done": "要完成的事情",
    "steps that are carried out at most (default: 12)": "最多执行的步数（默认：12）",
    "wall time of the whole task (default: 900)": "整个任务的时限，秒（默认：900）",
    "write what happens to a file, one JSON object per line": "把过程写入文件，每行一个 JSON 对象",
    "show a trace instead; with --tools and --code its actions are carried out again and compared": (
        "改为显示一份记录；加上 --tools 和 --code 时重新执行其中的操作并比较"
    ),
    "allow dangerous tools without asking": "不询问就允许危险的工具",
    # serve
    "Answer over HTTP in the OpenAI and Anthropic formats, many requests at once.": (
        "以 OpenAI 和 Anthropic 格式提供 HTTP 服务，可同时回答许多请求。"
    ),
    "address": "地址",
    "limits": "限制",
    "engine": "引擎",
    "more": "更多",
    "several replicas (Ray Serve)": "多个副本（Ray Serve）",
    "address to listen at (default: this machine only)": "监听地址（默认：仅本机）",
    "port (default: 8000; 0: any that is free)": "端口（默认：8000；0：任意空闲端口）",
    "the model's name in answers (default: that of the folder)": "回答中的模型名称（默认：文件夹名）",
    "a further name it answers to": "也可用来称呼它的另一个名称",
    "keys, one a line; also: the variable CHATGLM_API_KEYS": "密钥文件，每行一个；也可用环境变量 CHATGLM_API_KEYS",
    "a name this server is known under": "这台服务器的另一个主机名",
    "a web page that may ask (CORS)": "允许访问的网页来源（CORS）",
    "certificate, for https": "https 证书",
    "its key": "证书的私钥",
    "tokens of an answer where a request does not say (default: what the context holds)": (
        "请求未指定时回答的 token 数（默认：上下文所能容纳的）"
    ),
    "tokens of an answer at most": "回答的 token 数上限",
    "n and best_of at most (default: 16)": "n 和 best_of 的上限（默认：16）",
    "requests of one key answered at once (default: 256)": "每个密钥同时回答的请求数（默认：256）",
    "requests of one key in line; more are told to come back (default: 256)": (
        "每个密钥排队的请求数；更多的会被告知稍后再来（默认：256）"
    ),
    "size of a request (default: 16 MiB)": "请求的大小（默认：16 MiB）",
    "size of an uploaded file (default: 100 MiB)": "上传文件的大小（默认：100 MiB）",
    "of all files of one key (default: 1 GiB)": "每个密钥全部文件的总大小（默认：1 GiB）",
    "seconds a request may take (default: 600)": "一个请求的时限，秒（默认：600）",
    "seconds a client may leave a piece unread, or keep one back (default: 60)": (
        "客户端可以不读取或不发送数据的秒数（默认：60）"
    ),
    "seconds that running answers have when the server ends (default: 30)": "服务器结束时留给未完成回答的秒数（默认：30）",
    "requests computed at once, of all keys (default: 64)": "全部密钥同时计算的请求数（默认：64）",
    "memory for keys and values (default: a quarter of what is free, nine tenths on a GPU)": (
        "键值缓存的内存（默认：空闲内存的四分之一，GPU 上为十分之九）"
    ),
    "where a request does not say (default: 0.8)": "请求未指定时的值（默认：0.8）",
    "what generates: this package, or vLLM on GPUs": "用什么生成：本软件包，或 GPU 上的 vLLM",
    "with --engine vllm: GPUs that share the model": "使用 --engine vllm 时：共同承载模型的 GPU 数",
    "also the route of the official ChatGLM2 api.py": "同时提供官方 ChatGLM2 api.py 的接口",
    "let clients load LoRA adapters from folders below this one": "允许客户端加载此文件夹下的 LoRA 适配器",
    "where uploaded files and batches are kept (default: a private folder that is gone with the server)": (
        "上传的文件和批任务保存在哪里（默认：随服务器结束而删除的私有文件夹）"
    ),
    "also conversations that use this server's tools and code": "同时提供使用本服务器工具和代码的对话",
    "with --agent: its tools, named as for chatglm chat": "使用 --agent 时：可用的工具，写法同 chatglm chat",
    "with --agent: an isolated interpreter for each conversation": "使用 --agent 时：每个对话一个隔离的解释器",
    "with --code: how it is isolated (default: the strongest there is)": "使用 --code 时：隔离方式（默认：可用的最强方式）",
    "with --agent: of one key (default: 8)": "使用 --agent 时：每个密钥的对话数（默认：8）",
    "with --agent: seconds after which one is ended (default: 900)": "使用 --agent 时：闲置多少秒后结束（默认：900）",
    "write what people ask into the log": "把用户的提问写入日志",
    "what is logged (default: info)": "日志级别（默认：info）",
    "so many servers behind one address; 1-8: as many of these as there is work for": (
        "同一地址后的服务器数量；1-8：按工作量在此范围内调整"
    ),
    "put them on a Ray cluster that runs (default: the one of this machine) and leave them there; again: replace them one "
    "by one": "放到已在运行的 Ray 集群上（默认：本机的）并留在那里；再次执行：逐个替换",
    "cores of a replica (default: an equal share)": "每个副本的 CPU 核数（默认：平均分配）",
    "GPUs of a replica (default: 1 where there are)": "每个副本的 GPU 数（默认：有 GPU 时为 1）",
    # batch
    "Answer a file of requests in OpenAI's batch format: a line is an object with custom_id, method, url and body. Run "
    "again after it was ended: it goes on with what has no answer yet. Exit status 1: some rows have an error.": (
        "回答 OpenAI 批量格式的请求文件：每行一个对象，含 custom_id、method、url 和 body。中断后再次运行会继续未回答的部分。"
        "退出状态 1：部分行出错。"
    ),
    "the file of requests": "请求文件",
    "the file of answers, in the order in which they came": "回答文件，按完成的先后顺序",
    "the model's name in the requests (default: that of the folder)": "请求中的模型名称（默认：文件夹名）",
    "requests that are answered at once (default: 32)": "同时回答的请求数（默认：32）",
    # web
    "Talk to a model in the browser: chat, tools and the code interpreter in one page. The model is loaded before the "
    "address is written, to standard error.": (
        "在浏览器中与模型对话：对话、工具和代码解释器在同一页面。模型加载完成后才把地址写到标准错误。"
    ),
    "the page": "页面",
    "port (default: 7870; 0: any that is free)": "端口（默认：7870；0：任意空闲端口）",
    "who may come in: lines of name:password": "允许登录的用户：每行一个 名称:密码",
    "what draws the page (default: gradio)": "用什么绘制页面（默认：gradio）",
    "tools of the tool mode, named as for chatglm chat (default: calculator,current_time)": (
        "工具模式的工具，写法同 chatglm chat（默认：calculator,current_time）"
    ),
    "no code interpreter": "不提供代码解释器",
    "how code is isolated (default: the strongest there is)": "代码的隔离方式（默认：可用的最强方式）",
    "where conversations are kept (default: chatglm/conversations under XDG_DATA_HOME or ~/.local/share)": (
        "对话保存在哪里（默认：XDG_DATA_HOME 或 ~/.local/share 下的 chatglm/conversations）"
    ),
    # sandbox, doctor, info
    "Run code in one isolated interpreter for another program: a JSON request per line on standard input, an answer per "
    "line on standard output. docs/security.md describes both.": (
        "为其他程序在一个隔离的解释器中运行代码：标准输入每行一个 JSON 请求，标准输出每行一个回答。格式见 docs/security.md。"
    ),
    "speak JSON lines": "使用 JSON 行格式",
    "tell what of this machine can be used, and how code can be isolated.": "检查本机可用的资源以及代码的隔离方式。",
    "tell what a model is: variant, size, context, memory needs.": "介绍模型：版本、大小、上下文、内存需求。",
    "folder or hub name": "文件夹或 hub 名称",
    "show two or more models side by side, row by row": "逐行并排比较两个或多个模型",
    # convert
    "rewrite a model folder in another layout.": "把模型文件夹改写成另一种格式。",
    "the model folder to read": "要读取的模型文件夹",
    "the folder to write; it must not hold a model yet": "要写入的文件夹；其中不能已有模型",
    "glm: stock GlmForCausalLM of transformers; official: the names and fusions of the official files; gguf: one file for "
    "llama.cpp": (
        "glm：transformers 自带的 GlmForCausalLM；official：官方文件的名称与融合方式；gguf：llama.cpp 用的单个文件"
    ),
    "number format of a gguf file (default: f16)": "gguf 文件的数值格式（默认：f16）",
    # quantize
    "Write a model folder with 4-bit or 8-bit weights, layer by layer: memory holds one layer at a time. "
    "docs/quantization.md tells what each scheme costs and loses.": (
        "逐层写出 4 位或 8 位权重的模型文件夹：内存中一次只放一层。各方案的代价与损失见 docs/quantization.md。"
    ),
    "rounding": "取整",
    "the model folder to read, with full weights": "要读取的模型文件夹，须为完整权重",
    "bits per weight (default: 4)": "每个权重的位数（默认：4）",
    "columns that share a scale; 0: one scale a row (default: 32 for 4 bits, 0 for 8 bits and official files)": (
        "共用一个缩放系数的列数；0：每行一个（默认：4 位为 32，8 位和官方文件为 0）"
    ),
    "native: every scheme, read by this package; official: the INT4 and INT8 files of the releases (default: native)": (
        "native：全部方案，由本软件包读取；official：官方发布的 INT4、INT8 文件（默认：native）"
    ),
    "a zero point for every group of 4-bit weights": "为每组 4 位权重使用零点",
    "bits of the output layer; 16: as it is (default: 8 in native)": "输出层的位数；16：保持不变（native 默认：8）",
    "bits of the embedding; 16: as it is (default: 8 in native)": "词嵌入的位数；16：保持不变（native 默认：8）",
    "layers to leave as they are, such as '*.layers.0.*'": "保持不变的层，例如 '*.layers.0.*'",
    "nearest; mse: scales of least error; gptq: errors made up for, needs --calibrate (default: gptq with --calibrate, else "
    "nearest)": (
        "nearest：就近取整；mse：误差最小的缩放；gptq：补偿误差，需要 --calibrate（默认：有 --calibrate 时 gptq，否则 nearest）"
    ),
    "text, in UTF-8, like what the model will be used for": "UTF-8 文本，与模型将来的用途相近",
    "pieces of the text to use (default: 64)": "使用的文本片段数（默认：64）",
    "tokens of each (default: 512)": "每段的 token 数（默认：512）",
    "where to calibrate (default: cpu)": "在哪个设备上校准（默认：cpu）",
    # evaluate
    "Score a model on public benchmarks. Every prompt, answer and verdict is a line in --out; run again after it was ended, "
    "it goes on with what is not done. docs/evaluation.md tells the tasks and where their data go.": (
        "在公开基准上评测模型。每个提示、回答和判定在 --out 中占一行；中断后再次运行会继续未完成的部分。"
        "任务及其数据位置见 docs/evaluation.md。"
    ),
    "what": "评测内容",
    "tasks with commas between, each with a protocol if wanted: gsm8k,ceval:two-pass": (
        "任务，以逗号分隔，可各带协议：gsm8k,ceval:two-pass"
    ),
    "tell all tasks and protocols, and leave": "列出全部任务和协议并退出",
    "folder for answers and reports; of an ended run: goes on with it": "保存回答和报告的文件夹；若属于中断的运行则继续",
    "where the data are: a folder for each task": "数据所在位置：每个任务一个文件夹",
    "fetch missing data through the datasets library into --data-dir": "通过 datasets 库把缺少的数据下载到 --data-dir",
    "items of each task, from its subjects in turn": "每个任务的题数，从各科目轮流选取",
    "examples before a question (default: the protocol's)": "问题前的示例数（默认：按协议）",
    "the prompt as it is, or as a user's message (default: the protocol's)": "提示原样使用，还是作为用户消息（默认：按协议）",
    "tell the perplexity of a text too": "同时计算一段文本的困惑度",
    "tokens of the texts for needle, such as 4096,8192": "needle 任务文本的 token 数，例如 4096,8192",
    "percent of a text before the needle (default: 0,25,...)": "needle 之前文本的百分比（默认：0,25,...）",
    "items computed at once (default: 32, or 16 of a server)": "同时计算的题数（默认：32，用服务器时 16）",
    "compare two finished runs item by item, and leave": "逐题比较两次已完成的运行并退出",
    "with --compare: as JSON": "使用 --compare 时：输出 JSON",
    "write the tasks for lm-evaluation-harness, offline, and leave": "写出 lm-evaluation-harness 的任务（离线）并退出",
    # bench, perplexity
    "Measure how fast a model runs on this machine: a prompt, decoding alone and several at once, memory, and the share of "
    "what reading the weights allows.": (
        "测量模型在本机上的速度：处理提示、单个与多个同时解码、内存，以及达到读取权重所允许速度的比例。"
    ),
    "tokens of a prompt (default: 512)": "提示的 token 数（默认：512）",
    "tokens decoded in a round (default: 16)": "一轮解码的 token 数（默认：16）",
    "requests decoded at once (default: 1,8)": "同时解码的请求数（默认：1,8）",
    "as JSON instead of a table": "输出 JSON 而不是表格",
    "tell how well a model foresees a text.": "计算模型在一段文本上的困惑度。",
    "the text to score, in UTF-8": "要计算的文本，UTF-8",
    "tokens of a window (default: 2048, or the model's)": "窗口的 token 数（默认：2048，或模型的上下文）",
    "tokens by which the window moves (default: a whole window)": "窗口每次移动的 token 数（默认：整个窗口）",
    # finetune, pretrain
    "Teach a model by examples: a LoRA adapter, a P-Tuning prefix, or all weights. docs/finetuning.md has an example for "
    "each. Progress goes to standard error.": (
        "用样本微调模型：LoRA 适配器、P-Tuning 前缀或全部权重。示例见 docs/finetuning.md。进度写到标准错误。"
    ),
    "run": "运行",
    "machine": "机器",
    "adapters": "适配器",
    "rows to learn: a file or folder (see chatglm data check)": "训练数据：文件或文件夹（参见 chatglm data check）",
    "rows to measure on": "评估数据",
    "folder to write": "要写入的文件夹",
    "settings in yaml; the official lora.yaml, ... are read as well": "yaml 设置文件；官方的 lora.yaml 等也可读取",
    "go on with the run in DIR as if it had not stopped; its settings are known": (
        "像没有中断一样继续 DIR 中的运行；其设置已记录"
    ),
    "columns of question, answer and earlier turns, such as content,summary; of pairs question, preferred answer, "
    "other answer and earlier turns; of text and label": (
        "问题、回答和历史对话所在的列，例如 content,summary；偏好对则是问题、较好的回答、另一个回答和历史对话；分类则是文本和标签"
    ),
    "what is learned: answers, or to give texts their labels (default: answers)": (
        "学习什么：answers 为回答，或者给文本打标签（默认：answers）"
    ),
    "what rows hold: answers, pairs for dpo, texts with labels (default: answers)": (
        "每行是什么：回答、dpo 的偏好对、带标签的文本（默认：answers）"
    ),
    "of dpo: how dear it is to leave the base (default: 0.1)": "dpo 的 beta：偏离基座的代价（默认：0.1）",
    "folder or hub name of a sentence-transformers model, for embeddings under its own name": (
        "sentence-transformers 模型的文件夹或 hub 名称，以其自己的名称提供向量"
    ),
    "leave out rows that cannot be used": "跳过不能使用的行",
    "updates": "更新次数",
    "passes over the data (default: 3)": "数据遍数（默认：3）",
    "the highest (default: what fits the method)": "最高学习率（默认：适合所用方法的值）",
    "rows of a step on one device (default: 4)": "每个设备一步的行数（默认：4）",
    "steps that make an update (default: 1)": "多少步做一次更新（默认：1）",
    "tokens at which a row is cut (default: 2048)": "每行截断的 token 数（默认：2048）",
    "several examples in each row of that length": "把多个样本装进同样长度的一行",
    "of all that is drawn (default: 42)": "全部随机数的种子（默认：42）",
    "linear, cosine, constant, ... (default: linear)": "linear、cosine、constant 等（默认：linear）",
    "in which the rate rises (default: 0)": "学习率上升的步数（默认：0）",
    "(default: 0)": "（默认：0）",
    "a name of transformers, such as adamw_bnb_8bit": "transformers 的优化器名称，例如 adamw_bnb_8bit",
    "between two checkpoints (default: 500)": "两个检查点之间（默认：500）",
    "between two evaluations (default: 500)": "两次评估之间（默认：500）",
    "between two lines of progress (default: 10)": "两行进度之间（默认：10）",
    "checkpoints that are kept (default: 2)": "保留的检查点数（默认：2）",
    "evaluation rows whose answers are written and compared": "写出回答并比较的评估行数",
    "cpu, cuda, mps (default: the best there is)": "cpu、cuda、mps（默认：最好的可用设备）",
    "of the base (default: by its size)": "基座的数值格式（默认：按其大小）",
    "less memory, a third more time": "节省内存，时间增加三分之一",
    "begin even where memory seems too small": "即使内存看来不足也开始",
    "CPU threads": "CPU 线程数",
    "what is trained (default: lora); dpo: a LoRA on pairs of answers": (
        "训练什么（默认：lora）；dpo：在偏好对上训练 LoRA"
    ),
    "of LoRA (default: 8)": "LoRA 的秩（默认：8）",
    "of LoRA; alpha / rank is its factor (default: 32)": "LoRA 的 alpha；系数为 alpha / rank（默认：32）",
    "of LoRA (default: 0.1, for dpo 0)": "LoRA 的 dropout（默认：0.1，dpo 为 0）",
    "linear layers that get LoRA (default: query_key_value)": "使用 LoRA 的线性层（默认：query_key_value）",
    "of P-Tuning v2 (default: 128)": "P-Tuning v2 的前缀长度（默认：128）",
    "P-Tuning v2 with a projection": "带投影的 P-Tuning v2",
    "of the base, such as int4-g64 (default for qlora: int4)": "基座的量化方案，例如 int4-g64（qlora 默认：int4）",
    "Train all weights on texts or conversations, from a base or from nothing: rows are packed, the rate rises and falls "
    "with a cosine, checkpoints are written by wall time.": (
        "用文本或对话训练全部权重，从基座或从零开始：样本打包成行，学习率按余弦升降，检查点按时间写出。"
    ),
    "begin with new weights of the same shape": "从同样形状的新权重开始",
    "end in order after so long; --resume goes on": "到这么久后正常结束；用 --resume 继续",
    "between two checkpoints (default: 10)": "两个检查点之间（默认：10）",
    "lower the priority by so much (0 to 19)": "降低进程优先级（0 至 19）",
    "one example in each row": "每行一个样本",
    # merge, data, cache
    "Write a model folder with an adapter inside: a LoRA becomes part of the weights, a P-Tuning prefix stands beside them. "
    "Quantize and convert afterwards.": (
        "把适配器合并进模型文件夹：LoRA 成为权重的一部分，P-Tuning 前缀放在旁边。之后再量化和转换。"
    ),
    "folder or hub name of the model the adapter was made for": "适配器所属模型的文件夹或 hub 名称",
    "the folder that finetune wrote, or any LoRA folder": "finetune 写出的文件夹，或任意 LoRA 文件夹",
    "Check rows to train on, or write them in another spelling. Read are .jsonl, .json, .csv, .parquet and .txt; "
    "docs/finetuning.md has the spellings.": (
        "检查训练数据，或改写成另一种格式。可读取 .jsonl、.json、.csv、.parquet 和 .txt；格式见 docs/finetuning.md。"
    ),
    "check or convert": "check（检查）或 convert（转换）",
    "a data file, or a folder of them": "数据文件，或其所在文件夹",
    "the .jsonl file that convert writes": "convert 写出的 .jsonl 文件",
    "the spelling that convert writes (default: official)": "convert 写出的格式（默认：official）",
    "whose tokenizer counts (default: the embedded tiny model)": "用哪个模型的分词器计数（默认：内置的小模型）",
    "samples that are shown (default: 3)": "显示的样本数（默认：3）",
    "List or remove the quantized copies that --quantize keeps, in $XDG_CACHE_HOME/chatglm.": (
        "列出或删除 --quantize 在 $XDG_CACHE_HOME/chatglm 中保留的量化副本。"
    ),
    "list: what is kept; clear: remove all of it": "list：列出；clear：全部删除",
}
