"""DOOR the interactive chat and the one-shot answer of `chatglm chat`.

It holds the conversation and the screen. How an answer is generated is behind `responder.Responder`.
"""
