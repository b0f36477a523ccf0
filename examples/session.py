"""A conversation that calls tools. The embedded model has not learned to; ChatGLM3-6B calls `roll` by itself."""

import chatglm
from chatglm.agent.session import Session
from chatglm.tools import tool


@tool
def roll(sides: int = 6) -> int:
    """Rolls a die."""
    return 4


model, tokenizer = chatglm.load()
engine = chatglm.engine_for(model, tokenizer)
with Session(engine, tokenizer, tools=[roll], params=chatglm.SamplingParams(temperature=0)) as session:
    for question in ("你好", "Roll a die for me."):
        for event in session.send(question):
            print(event)
    print(engine.stats().hit_rate)
