"""The web app as users get it, but with a model that answers by a script. Run as a program: writes its address."""

import socket
import sys
import tempfile
from pathlib import Path

from web.scripted_page import answers

from chatglm.web.run import _builder, serve
from chatglm.web.users import Users
from chatglm.web.visitors import PARKED_SECONDS, visitors_of

USERS = {"ann": "correct horse", "bob": "battery staple"}


def main(*options):
    pool = None
    if "--code" in options:
        from chatglm.sandbox import SandboxPool

        pool = SandboxPool(preload=() if "--hasty" in options else ("matplotlib.pyplot",))
    made = answers(pool)
    listener = socket.create_server(("127.0.0.1", 0))
    with tempfile.TemporaryDirectory() as folder:
        users = Users(USERS) if "--users" in options else None
        ui = "streamlit" if "--streamlit" in options else "gradio"
        here = visitors_of(made, Path(folder), parked=1.0 if "--hasty" in options else PARKED_SECONDS)
        app = _builder(ui)(made, Path(folder), hosts=("127.0.0.1", "localhost"), users=users, visitors=here)
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        serve(app, listener, sockets=ui == "streamlit")
    made.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
