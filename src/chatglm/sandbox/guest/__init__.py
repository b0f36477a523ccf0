"""The program inside the guest. The host never trusts what it sends: everything here shares a process with their code.

These files are copied into the guest and run by its own Python, where nothing of `chatglm` exists: they import the
standard library, IPython inside functions, and each other.
"""
