"""A task with a plan, tools and a trace; then a recorded trace told again, its tools used again and compared.

The embedded model makes no plans; the recorded trace shows what a model that can does (`docs/agents.md`).
"""

from pathlib import Path

import chatglm
from chatglm.agent.replay import replay
from chatglm.agent.task import run_task
from chatglm.tools import builtin_tools

model, tokenizer = chatglm.load()
engine = chatglm.engine_for(model, tokenizer)
tools = builtin_tools(["calculator", "current_time"])
print(run_task(engine, tokenizer, "3 + 5 = ?", tools=tools, params=chatglm.SamplingParams(temperature=0), max_steps=2))

for step in replay(Path(__file__).with_name("agent_trace.jsonl"), tools=tools):
    print(step.record["kind"], "|", step.record.get("text") or step.record, "| comes out the same:", step.same)
