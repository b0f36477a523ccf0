"""A conversation of two turns, streamed."""

import chatglm

model, tokenizer = chatglm.load()  # the embedded model; a folder or a hub name loads another
history = []
for question in ("My name is Tom.", "What is my name?"):
    shown = ""
    for response, history in model.stream_chat(tokenizer, question, history=history, do_sample=False):
        print(response[len(shown) :], end="", flush=True)
        shown = response
    print()
