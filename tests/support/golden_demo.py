"""Writes src/model/golden_demo.json: what mlx-lm computes with the bundled model.

    pip install "mlx[cpu]==0.32.4" mlx-lm==0.32.2 jinja2
    python tests/support/golden_demo.py

For each prompt: its token ids, the 20 largest logits after the last one, and
the greedy continuation. Parameters and activations are f32, so that the
reference has no rounding of its own to forgive.
"""

import json
from pathlib import Path

import mlx.core as mx
import mlx.utils
from mlx_lm.utils import load

ROOT = Path(__file__).resolve().parents[2]
TOOLS = json.loads((ROOT / "models/demo/tools.json").read_text())
PROMPTS = ["what time is it in Tokyo?", "what is 17 * 23?", "hello there"]


def main():
    model, tokenizer = load(str(ROOT / "models/demo"))
    wide = {k: v.astype(mx.float32) if mx.issubdtype(v.dtype, mx.floating) else v
            for k, v in mlx.utils.tree_flatten(model.parameters())}
    model.load_weights(list(wide.items()))
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tools=TOOLS, add_generation_prompt=True)
        logits = model(mx.array([ids]))[0, -1]
        order = mx.argsort(-logits)[:20].tolist()
        top = [[i, round(logits[i].item(), 5)] for i in order]
        seen, greedy = list(ids), []
        for _ in range(40):
            token = mx.argmax(model(mx.array([seen]))[0, -1]).item()
            greedy.append(token)
            seen.append(token)
            if token in tokenizer.eos_token_ids:
                break
        cases.append({"prompt": prompt, "ids": list(ids), "top": top, "greedy": greedy})
        print(prompt, "->", tokenizer.decode(greedy))
    lines = ",\n".join(json.dumps(case) for case in cases)
    (ROOT / "src/model/golden_demo.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
