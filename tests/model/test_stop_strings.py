import chatglm, torch, pytest
from chatglm.chat.message import TextDelta, Done
from chatglm.errors import PromptError
assert "patched" in chatglm.__file__
from chatglm.model.reply import Reply
@pytest.fixture(scope="module")
def pair():
    return chatglm.load()
def run(pair, **k):
    r=Reply(*pair,[{"role":"user","content":"你好"}],do_sample=False,max_new_tokens=40,**k)
    ev=list(r); return "".join(e.text for e in ev if isinstance(e,TextDelta)), ev[-1].reason, r
def test_all(pair):
    text,reason,r=run(pair); print(text)
    for extra in ({}, {"no_repeat_ngram_size":50}):
      for i in range(1,len(text)-1):
        for n in (1,2,3):
            stop=text[i:i+n]; 
            if stop.strip()!=stop: continue
            t,why,rr=run(pair,stop_strings=[stop, "zzz"],**extra)
            want=text[:text.index(stop)].rstrip()
            assert t==want,(stop,t); assert why=="stop"
            ms=rr.messages()
            assert (ms[-1].content if ms else "")==want
            assert not ms or ms[-1].ids is None
            eng=None
    answer,hist=pair[0].chat(pair[1],"你好",do_sample=False,stop_strings=[text[2:4]])
    assert answer==text[:text.index(text[2:4])]
    a2,h2=pair[0].chat(pair[1],"你好",history=hist,do_sample=False)
    for bad in ("x",[""],[1]):
        with pytest.raises(PromptError): run(pair,stop_strings=bad)
    t,why,rr=run(pair,stop_strings=["qqqq"]); assert t==text and rr.messages()[-1].ids
