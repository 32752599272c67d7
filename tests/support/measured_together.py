"""One of the processes that measure a model together; a launcher's variables say which. Main writes the results.

python measured_together.py CONTEXT.pickle RESULTS.json
"""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hubkit.models.chat import eos
from hubkit.models.chat.stop_rate import measure
from hubkit.models.load import load_model, load_tokenizer
from hubkit.training.launching import ranks
from hubkit_stages import evaluate

PROMPTS = [{"messages": [{"role": "user", "content": f"Name colour {n}{'!' * n}"}]} for n in range(7)]


def main() -> None:
    ctx, template = pickle.loads(Path(sys.argv[1]).read_bytes())
    ranks.join(ranks.MEASURING_WAIT)
    out = ranks.own_folder(ctx.scratch) / "out"
    out.mkdir(parents=True, exist_ok=True)
    measured: Any = evaluate.run(replace(ctx, out=out)).artifact
    folder = ctx.inputs.merged.model
    tokenizer = load_tokenizer(folder, chat_template=template)
    rate = measure(
        load_model(folder), tokenizer, PROMPTS, eos.find(tokenizer), max_new_tokens=12, batch_size=2,
        together=ranks.together(),
    )  # fmt: skip
    asked = {"suites": measured.model_dump(mode="json")["suites"], "rate": asdict(rate)}
    if ranks.is_main():
        Path(sys.argv[2]).write_text(json.dumps(asked, sort_keys=True, default=str))
    ranks.wait()
    ranks.leave()


if __name__ == "__main__":
    main()
