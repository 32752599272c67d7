"""A release of a tiny random architecture by the real command: the base and two datasets on an embedded Hub, a recipe.

Nothing of it stops or knows anything, so no gate is enforced: what counts is that each stage takes the architecture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architectures import make
from commands import hubkit, hubkit_json

from hubkit.core.target import Target
from hubkit.hub.client import RepoType, connect
from hubkit.recipe.loading import parse_recipe

RECIPE = """
repo: hubkit/{name}-dpo
visibility: public
license: apache-2.0
base: {{repo: hubkit/{name}, dtype: {dtype}}}
data:
  preferences: [{{repo: hubkit/pairs}}]
  repair: [{{repo: hubkit/chats}}]
stages:
  dpo:
    data: preferences
    quantization: {quantization}
    lora: {{r: 2, lora_alpha: 4, target_modules: all-linear}}
    args: {{max_steps: 1, per_device_train_batch_size: 4, max_length: 256, learning_rate: 1e-3}}
  sft:
    data: repair
    continues: dpo
    quantization: {quantization}
    args: {{max_steps: 1, per_device_train_batch_size: 4, max_length: 256, learning_rate: 1e-3}}
variants: {{main: {{stage: sft, gate: report}}}}
evaluate: {{suites: [colors], include: tasks, apply_chat_template: true, batch_size: 4}}
gates: {{stop_rate: {{prompts_from: repair, prompts: 4, max_new_tokens: 8, batch_size: 4}}}}
card: {{title: A tiny {name}, summary: Random weights that pass through each stage.}}
"""
TASK = """
task: colors
task_alias: Colors
dataset_path: json
dataset_kwargs: {data_files: {test: colors.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
ITEMS = [
    {"question": f"Which color has {thing}?", "choices": ["Red.", "Blue.", "Green."], "answer": place % 3}
    for place, thing in enumerate(("the sky", "the sea", "a leaf", "a rose"))
]
SYSTEM = "You are a patient teacher."


def pairs() -> list[dict[str, Any]]:
    """Preferences in the columns of Orca's: some with a system message."""
    return [
        {
            "system": SYSTEM if number % 2 else "",
            "question": f"What comes after {number}? " * (1 + number % 3),
            "chosen": f" The number {number + 1} comes after it.\n",
            "rejected": f"{number + 1}",
        }
        for number in range(10)
    ]


def chats() -> list[dict[str, Any]]:
    """Conversations of one and two questions, some with a system message."""
    found = []
    for number in range(14):
        said = [("user", f"Name the number {number}."), ("assistant", f"It is {number}.")]
        said += [("user", "And the next?"), ("assistant", f"It is {number + 1}.")] if number % 3 == 0 else []
        said = [("system", SYSTEM), *said] if number % 2 else said
        found.append({"messages": [{"role": role, "content": text} for role, text in said]})
    return found


@dataclass
class ArchitectureRelease:
    """A home with its embedded Hub, on which any number of architectures are released."""

    home: Path
    url: str = ""
    token: str = ""

    def start(self) -> ArchitectureRelease:
        """Start the Hub and publish the datasets."""
        hubkit("hub", "start", home=self.home)
        self.url = hubkit_json("hub", "status", home=self.home)["url"]
        self.token = (self.home / "hub" / "owner.token").read_text(encoding="utf-8").strip()
        for name, rows in (("pairs", pairs()), ("chats", chats())):
            folder = self.home.parent / "sets" / name
            folder.mkdir(parents=True)
            (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
            self._upload(f"hubkit/{name}", folder, "dataset")
        return self

    def stop(self) -> None:
        """Stop the Hub."""
        hubkit("hub", "stop", home=self.home)

    def release(self, name: str, *, dtype: str = "bfloat16", quantization: str = "none") -> Path:
        """Publish the base ``name`` and release it; the folder of the run."""
        folder = self.publish(name, dtype)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "colors.yaml").write_text(TASK)
        (folder / "tasks" / "colors.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
        return self.release_recipe(folder, RECIPE.format(name=name, dtype=dtype, quantization=quantization))

    def release_recipe(self, folder: Path, text: str) -> Path:
        """Release the recipe ``text`` in ``folder``; the folder of its first run."""
        (folder / "hubkit.yaml").write_text(text)
        done = hubkit("release", home=self.home, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.home / "runs" / f"{parse_recipe(text).repo.partition('/')[2]}-1"

    def publish(self, name: str, dtype: str) -> Path:
        """Publish the base ``name``; the folder of its files."""
        folder = self.home.parent / name
        base = make(name, folder / "base", dtype=dtype)
        (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        self._upload(f"hubkit/{name}", base, "model")
        return folder

    def _upload(self, repo: str, folder: Path, kind: RepoType) -> None:
        hub = connect(Target(self.url, self.home / "hf", self.token, embedded=True))
        hub.ensure_repo(repo, "public", kind)
        hub.upload_folder(repo, folder, repo_type=kind, title="Add the files")

    def quick(self, *names: str) -> dict[str, Any]:
        """The stages from ``base`` to ``stopping`` of each architecture, in one process of their own, by name."""
        for name in names:
            self.publish(name, "float32")
        target = Target(self.url, self.home / "hf", self.token, embedded=True)
        done = subprocess.run(
            [sys.executable, __file__, self.url, self.token, str(self.home), *names],
            env={**os.environ, **target.environment(), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout.split("TOLD")[1]))


QUICK = ("base", "data", "train[dpo]", "train[sft]", "merge[main]", "stopping[main]")


def through_the_stages(target: Target, home: Path, name: str) -> dict[str, Any]:
    """Run the stages of :data:`QUICK` here; the main JSON file of each."""
    from hubkit.pipeline.find_stage import find_stage
    from hubkit.pipeline.jobs import expand
    from hubkit.pipeline.release_state import ReleaseState
    from hubkit.pipeline.runs import open_run

    recipe = parse_recipe(RECIPE.format(name=name, dtype="float32", quantization="none"))
    run = open_run(home, recipe.repo, target, fresh=True)
    state = ReleaseState(recipe, home, target, run, expand(recipe))
    facts = {}
    for job in (job for job in state.jobs if job.id in QUICK):
        key, stage = state.key(job), find_stage(job.stage)
        run.begin(job.id, key)
        made = run.keep(job.id, key, stage.run(state.context(job)), 0.0)
        state.finished[job.id] = made
        facts[job.id] = {path.name: json.loads(path.read_text()) for path in made.path.glob("*.json")}
    return facts


if __name__ == "__main__":
    url, token, folder, *given = sys.argv[1:]
    on = Target(url, Path(folder) / "hf", token, embedded=True)
    print("TOLD" + json.dumps({name: through_the_stages(on, Path(folder), name) for name in given}))
