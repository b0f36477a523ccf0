import copy
import json

import pytest
from golden_data import golden_file

from chatglm.chat.response import process_response

CASES = json.loads(golden_file("tokenization/process_response.json").read_text(encoding="utf-8"))
COMPUTED = {"tool_call_expression_is_evaluated", "tool_call_expression_in_arg"}  # the official code evaluates these
READ = {  # these end the official code with an exception; they can be read
    "tool_call_trailing_newline": {"a": 1},
    "tool_call_leading_blank": {"a": 1},
    "tool_call_no_fence": {"a": 1},
    "tool_call_unclosed_fence": {"a": 1},
    "tool_call_name_error": {"a": 1},
    "tool_call_undefined_value": {"a": True},
}


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_process_response_as_officially_but_nothing_is_run(case):
    history = copy.deepcopy(case["history"])
    content, new_history = process_response(case["output"], history)
    assert history == case["history"]
    if case["name"] in READ:
        assert content == {"name": "get_weather", "parameters": READ[case["name"]]}
    elif case["name"] in COMPUTED or "error" in case["result"]:
        last = new_history[-1]
        assert content.keys() == {"name", "content", "error"}
        assert (content["name"], content["content"]) == ("get_weather", last["content"])
    else:
        assert repr({"content": content, "history": new_history}) == case["result"]["ok_repr"]
