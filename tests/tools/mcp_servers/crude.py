"""A server of thirty lines that misbehaves as it is told: `crude.py MODE`."""

import json
import sys
import time

mode = sys.argv[1]


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if mode == "exit":
    sys.exit("the key is missing")
if mode == "junk only":
    say("hello, I am no server")
    time.sleep(60)
tools = [{"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}]
if mode == "odd tools":
    tools += [
        {"name": "two words", "description": "", "inputSchema": {"type": "object"}},
        {"name": "pattern", "inputSchema": {"type": "object", "properties": {"a": {"pattern": "("}}}},
        {"name": "interpreter", "inputSchema": {"type": "object", "title": "T", "$schema": "x"}},
        {"name": "echo", "inputSchema": {"type": "object"}},
    ]
if mode == "many tools":
    tools = [{"name": f"t{number}", "inputSchema": {"type": "object"}} for number in range(501)]


def answer(request, **parts):
    say(json.dumps({"jsonrpc": "2.0", "id": request["id"], **parts}))


for line in sys.stdin:
    request = json.loads(line)
    method = request.get("method")
    if mode == "slow" and method == "initialize":
        time.sleep(60)
    if mode == "junk":
        say('junk\n{"jsonrpc": "2.0", "id": 99, "result": {}}\n[]\n{"id"')
    if "id" not in request:
        continue
    if method == "initialize":
        information = {"name": "crude", "version": "1"}
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": information}
        answer(request, result=result)
    elif method == "tools/list":
        cursor = {"nextCursor": "again"} if mode == "endless" else {}
        answer(request, result={"tools": tools, **cursor})
    elif method == "tools/call":
        text = json.dumps(request["params"].get("arguments", {}))
        if mode == "no result":
            answer(request, result={"content": [{"type": "text"}], "isError": "perhaps"})
        elif mode == "silent":
            continue
        elif mode == "refuses":
            answer(request, error={"code": -32602, "message": "not today, see /home/me/x.log"})
        elif "die" in text:
            sys.exit(3)
        else:
            answer(request, result={"content": [{"type": "text", "text": text}], "isError": False})
    else:
        answer(request, error={"code": -32601, "message": "Method not found"})
