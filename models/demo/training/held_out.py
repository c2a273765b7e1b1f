#!/usr/bin/env python3
"""held_out.py - held-out conversations as text, and what is right in them, for programs without a part of gen.py and
eval.py: one line of JSON a conversation,

    {"category": "A.calculate", "parts": [{"text": "<|im_start|>system ..."}, {"reply": "<tool_call> ...", "calls": [{"name", "arguments"}]},
     {"text": ...}, {"reply": "17 * 23 is 391.<|im_end|>", "holds": ["391"]}]}

The parts one after the other are the conversation. A reply that is scored has the calls that are right in it, or what an
answer without a call holds, as in eval.py; those of earlier exchanges have neither.

  python held_out.py --out test.jsonl                                           all 855, those of gen.py --test --seed 99
  python held_out.py --every 6 --out ../../../tests/fixtures/held-out.jsonl     what llm-server's tests have
"""
import argparse, json
import gen


def parts(conv):
    *earlier, last = conv["exchanges"]
    pieces = gen.render({**conv, "exchanges": earlier})
    out = [{"reply" if trained else "text": text} for text, trained in pieces if text]
    scored = [{"calls": [{"name": c["name"], "arguments": c["arguments"]} for c in turn]} for turn in last["turns"]]
    scored.append({"holds": last["payload"]})
    for text, trained in gen.render_exchange(last):
        out.append({"reply": text, **scored.pop(0)} if trained else {"text": text})
    assert not scored
    return out


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, default=99)
    ap.add_argument("--every", type=int, default=1)
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    with open(a.out, "w") as f:
        for conv in gen.tests(gen.G(a.seed, True), 1.0)[:: a.every]:
            line = {"category": conv["exchanges"][-1]["cat"], "parts": parts(conv)}
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
