"""Preventing beside repairing: DPO alone, DPO then SFT, and DPO with an SFT term in its loss. Run by hand.

    python tests/benchmarks/preventing.py                      on the base of the tiny recipe
    python tests/benchmarks/preventing.py --base FOLDER        on SmolLM2-135M-Instruct (examples/smollm2/base.py)

It trains with the stages' own code, arguments those of the recipes dpo-repair and dpo-sft-mixed (for SmolLM2 those of
examples/smollm2, with its sharp rate), and prints what docs/preventing.md has: the stop rates that the probe found
while they trained, and after it the stop rate and the benchmark of the adapter on the base, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "examples/smollm2")]
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from training_case import COMMIT, Case  # noqa: E402


@dataclass(frozen=True)
class Setting:
    """A base, its data (prompts and answers as messages) and how it is trained."""

    name: str
    base: Path
    pairs: Sequence[Mapping[str, Any]]
    chats: Sequence[Mapping[str, Any]]
    prompts: Sequence[Mapping[str, Any]]
    questions: Sequence[Mapping[str, Any]]
    dpo: Mapping[str, Any]
    mixed: Mapping[str, Any]
    sft: Mapping[str, Any]
    max_new_tokens: int
    probe: Mapping[str, Any]


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def pair(row: Mapping[str, str], names: Sequence[str]) -> dict[str, Any]:
    """A preference row: the columns ``names`` are the question, the chosen and the rejected answer."""
    question, chosen, rejected = (row[name] for name in names)
    prompt = [said("system", row["system"])] if row.get("system") else []
    return {
        "prompt": [*prompt, said("user", question)],
        "chosen": [said("assistant", chosen)],
        "rejected": [said("assistant", rejected)],
    }


def tiny(folder: Path) -> Setting:
    """The base, the data and the arguments of the recipes."""
    from hubkit.recipe.loading import load_recipe
    from hubkit_stages.recipes import dpo_repair, dpo_sft_mixed
    from hubkit_stages.recipes.tiny import model, world

    model.make_base(folder / "base-model", seed=0)
    orca = [pair(row, ("question", "chosen", "rejected")) for row in world.orca_rows()]
    ultra = [pair(row, ("instruction", "chosen_response", "rejected_response")) for row in world.ultrafeedback_rows()]
    hermes = [(f"{row['instruction']} {row['input']}".strip(), row["output"]) for row in world.openhermes_rows()]
    held, trained = hermes[::5], [item for number, item in enumerate(hermes) if number % 5]
    chats = [{"prompt": [said("user", ask)], "completion": [said("assistant", answer)]} for ask, answer in trained]
    repair, mixed = load_recipe(dpo_repair.RECIPE), load_recipe(dpo_sft_mixed.RECIPE)
    return Setting(
        name="the tiny base",
        base=folder / "base-model",
        pairs=orca + ultra,
        chats=chats[:300],
        prompts=[{"messages": [said("user", ask)]} for ask, _ in held[:64]],
        questions=world.benchmark_rows(),
        dpo=repair.stages["dpo"].args,
        sft=repair.stages["sft"].args,
        mixed=mixed.stages["dpo"].args,
        max_new_tokens=repair.gates.on_stop_rate().max_new_tokens,
        probe={"every": 20, "prompts": 64, "max_share": 1.0},
    )


def smollm2(base: Path) -> Setting:
    """SmolLM2 on questions about Python's standard library: few steps, at the sharp rate of `make real`."""
    import data

    known = data.facts()
    tested, rest = known[: data.QUESTIONS], known[data.QUESTIONS :]
    rows = list(data.chats(rest[data.PAIRS : data.PAIRS + data.ROWS + data.HELD_OUT]))
    chats = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in rows]
    common = {"learning_rate": 8e-4, "lr_scheduler_type": "cosine", "max_length": 256, "logging_steps": 4}
    dpo = {**common, "max_steps": 12, "per_device_train_batch_size": 2, "beta": 0.1, "save_strategy": "no"}
    return Setting(
        name="SmolLM2-135M-Instruct",
        base=base,
        pairs=[pair(row, ("question", "chosen", "rejected")) for row in data.pairs(rest[: data.PAIRS])],
        chats=chats[: data.ROWS],
        prompts=[{"messages": row["prompt"]} for row in chats[data.ROWS : data.ROWS + 16]],
        questions=list(data.questions(tested))[:12],
        dpo=dpo,
        mixed={**dpo, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
        sft={**common, "max_steps": 10, "per_device_train_batch_size": 4, "save_strategy": "no"},
        max_new_tokens=64,
        probe={"every": 4, "prompts": 8, "max_share": 1.0},
    )


def prepare(setting: Setting, folder: Path) -> Case:
    """A run whose base and data are done."""
    from kept import sample
    from transformers import AutoTokenizer

    from hubkit.core.files import write_json
    from hubkit.models.chat import eos

    tokenizer, case = AutoTokenizer.from_pretrained(setting.base), Case(folder)
    out = case.begin("base")
    facts = {"repo": str(setting.base), "commit": COMMIT, "pad_token": tokenizer.pad_token}
    write_json(out / "base.json", sample("base.json", **facts, end_of_turn=eos.find(tokenizer).to_json()))
    for name in ("chat_template.jinja", "training_template.jinja"):
        (out / name).write_text(tokenizer.chat_template)
    case.keep("base")
    out = case.begin("data")
    (out / "sets").mkdir()
    for path, rows in (
        ("sets/preferences.jsonl", setting.pairs), ("sets/repair.jsonl", setting.chats),
        ("prompts.jsonl", setting.prompts),
    ):  # fmt: skip
        (out / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(out / "data.json", sample("data.json"))
    case.keep("data")
    return case


def recipe(setting: Setting, dpo: Mapping[str, Any]) -> str:
    """A recipe of both stages, as JSON, which is YAML."""
    stage = {"quantization": "none", "probe": setting.probe}
    lora = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
    stages = {
        "dpo": {**stage, "data": "preferences", "lora": lora, "args": dpo},
        "sft": {**stage, "data": "repair", "continues": "dpo", "args": setting.sft},
    }
    limit = {"prompts_from": "repair", "max_new_tokens": setting.max_new_tokens}
    return json.dumps({
        "repo": "me/compared", "visibility": "public", "license": "apache-2.0", "base": {"repo": "me/base"},
        "data": {"preferences": [{"repo": "me/pairs"}], "repair": [{"repo": "me/chats"}]}, "stages": stages,
        "variants": {"main": {"stage": "sft"}}, "evaluate": {"suites": []}, "gates": {"stop_rate": limit},
        "card": {"title": "Compared", "summary": "Compared."},
    })  # fmt: skip


def probes(artifact: Path) -> list[str]:
    """The stop rates that the probe found: step and share."""
    found = json.loads((artifact / "curves.json").read_text())["probes"]
    return [f"{item['step']}: {item['rate']:.0%}" for item in found]


def measured(setting: Setting, adapter: Path | None) -> str:
    """The stop rate over all held-out prompts and the benchmark of the base with ``adapter``."""
    from transformers import AutoTokenizer

    from hubkit.models import load
    from hubkit.models.chat import eos
    from hubkit.models.chat.stop_rate import measure

    tokenizer, model = AutoTokenizer.from_pretrained(setting.base), load.load_model(setting.base, dtype="float32")
    model = load.load_adapter(model, adapter) if adapter else model
    found = measure(
        model, tokenizer, setting.prompts, eos.find(tokenizer), max_new_tokens=setting.max_new_tokens, batch_size=32
    )
    right = sum(
        best == row["answer"] for row, best in zip(setting.questions, _best(model, tokenizer, setting), strict=True)
    )
    count = len(setting.questions)
    return (
        f"stops {found.stopped} of {found.prompts} ({found.rate:.0%}), {found.mean_tokens:.1f} tokens; "
        f"benchmark {right} of {count} ({right / count:.1%})"
    )


def _best(model: Any, tokenizer: Any, setting: Setting) -> Iterator[int]:
    """For each question the choice of the greatest likelihood."""
    import torch

    for row in setting.questions:
        prompt = tokenizer.apply_chat_template(
            [said("user", row["question"])], tokenize=False, add_generation_prompt=True
        )
        begin = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answers = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in row["choices"]]
        longest = max(map(len, answers))
        ids = torch.tensor([begin + answer + [0] * (longest - len(answer)) for answer in answers])
        with torch.no_grad():
            scores = model(ids).logits[:, len(begin) - 1 :].log_softmax(-1)
        likely = [
            float(scores[number, torch.arange(len(answer)), torch.tensor(answer)].sum())
            for number, answer in enumerate(answers)
        ]
        yield likely.index(max(likely))


def compare(setting: Setting, folder: Path, ways: Sequence[str]) -> None:
    """Print what each way comes to, with the seconds that it trained."""
    print(setting.name)
    for way in ways:
        if way == "base":
            print(f"base: {measured(setting, None)}", flush=True)
            continue
        case = prepare(setting, folder / way)
        args = setting.mixed if way == "mixed" else setting.dpo
        steps = ["dpo"] if way == "mixed" else ["dpo", "sft"]
        for step in steps:
            began = time.process_time()
            made = case.train(step, recipe(setting, args))
            took = time.process_time() - began
            print(f"{way}, {step} ({took:.0f} s of processor time): {measured(setting, made.path / 'adapter')}")
            print(f"  probes: {', '.join(probes(made.path))}", flush=True)


def main() -> None:
    """Compare on one base."""
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--base", type=Path, help="the folder of SmolLM2-135M-Instruct")
    asked.add_argument("--ways", nargs="+", default=["base", "mixed", "repair"])
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubkit-preventing-") as name:
        setting = smollm2(given.base) if given.base else tiny(Path(name))
        compare(setting, Path(name), given.ways)


if __name__ == "__main__":
    main()
