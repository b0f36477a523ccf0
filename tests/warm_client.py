"""Stands where `python` stands in a command: the process that `warm_server.py` forks runs the program in its place.

Usage: warm_client.py SOCKET PROGRAM..., PROGRAM as `python` takes it. Standard streams, folder and environment are
handed over, and so is the terminal if this process leads its session. Signals are passed on, and this process ends as
the program ends.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import termios

PASSED_ON = (signal.SIGINT, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a program to pass them on to
where, *arguments = sys.argv[1:]
terminal = os.isatty(0) and os.getsid(0) == os.getpid()
if terminal:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # giving the terminal away sends one
    fcntl.ioctl(0, termios.TIOCNOTTY)
program = {
    "arguments": arguments,
    "terminal": terminal,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect(where)
    socket.send_fds(server, [json.dumps(program).encode()], [0, 1, 2])
    child = int(server.recv(64))
    for number in PASSED_ON:
        signal.signal(number, lambda number, frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = os.waitstatus_to_exitcode(int(server.recv(64)))
if code < 0:
    with contextlib.suppress(OSError):  # nothing can be set for SIGKILL
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
