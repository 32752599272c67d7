"""A base on an embedded Hub, and what trainers leave of a training on it: their file lists, with random numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import save_adapter
from architectures import make

from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.recipe.stage import BaseRepo

BASE = "hubkit/base"
UNSLOTH = "unsloth/base-bnb-4bit"
LORA = {"target_modules": ["q_proj", "v_proj"]}


@dataclass
class Adopting:
    """A folder with the base's checkpoint in ``base`` and adapters in folders of their own."""

    folder: Path
    target: Target

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def base_repo(self) -> BaseRepo:
        return BaseRepo(BASE, "main")

    def start(self) -> Adopting:
        """Make the base and publish it; make the adapter from which the others are shaped."""
        make("llama-3-tied", self.base)
        (self.base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\n")
        self.upload(BASE, self.base)
        save_adapter(self.base, self.folder / "plain", **LORA)
        named(self.folder / "plain", BASE)
        return self

    def upload(self, repo: str, folder: Path) -> None:
        hub = connect(self.target)
        hub.ensure_repo(repo, "public", "model")
        hub.upload_folder(repo, folder, repo_type="model", title="Add the files")

    def copy(self, name: str) -> Path:
        """A copy of the plain PEFT folder."""
        return shutil.copytree(self.folder / "plain", self.folder / name)

    def unsloth(self, name: str) -> Path:
        """What Unsloth's save_pretrained leaves: the 4-bit mirror as the base, a tokenizer, the README of PEFT."""
        out = self.copy(name)
        auto = {
            "base_model_class": "LlamaForCausalLM",
            "parent_library": "transformers.models.llama.modeling_llama",
            "unsloth_fixed": True,
        }
        rewrite(out / "adapter_config.json", base_model_name_or_path=UNSLOTH, auto_mapping=auto)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(self.base / file, out / file)
        (out / "README.md").write_text(f"---\nbase_model: {UNSLOTH}\nlibrary_name: peft\n---\n# Model Card\n")
        return out

    def axolotl(self, name: str) -> Path:
        """What axolotl leaves: the adapter and the base's small files, checkpoints with pickles, the YAML beside it."""
        out = self.copy(name)
        named(out, str(self.base))
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(self.base / file, out / file)
        (out / "README.md").write_text("---\nlibrary_name: peft\n---\n# out\n")
        checkpoint = out / "checkpoint-40"
        checkpoint.mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(out / file, checkpoint / file)
        for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
            (checkpoint / file).write_bytes(b"\x80\x04.")
        (checkpoint / "trainer_state.json").write_text(json.dumps(TRAINER_STATE))
        (self.folder / f"{name}.yaml").write_text(AXOLOTL)
        return out


TRAINER_STATE: dict[str, Any] = {
    "epoch": 2.0,
    "global_step": 40,
    "max_steps": 40,
    "train_batch_size": 2,
    "log_history": [
        {"epoch": 0.5, "learning_rate": 2e-4, "loss": 1.75, "step": 10},
        {"epoch": 2.0, "learning_rate": 1e-5, "loss": 0.8125, "step": 40},
        {"epoch": 2.0, "step": 40, "train_loss": 1.25, "train_runtime": 62.5, "total_flos": 1e12},
    ],
}
AXOLOTL = """\
base_model: /data/models/base
adapter: lora
lora_r: 4
lora_alpha: 8
learning_rate: 2e-4
num_epochs: 2
micro_batch_size: 2
sample_packing: true
output_dir: ./outputs/lora
datasets:
  - {path: /home/someone/rows.jsonl, type: chat_template}
"""


def rewrite(path: Path, **keys: Any) -> None:
    """Set ``keys`` in the JSON file ``path``."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def named(folder: Path, base: str) -> Path:
    """The adapter in ``folder``, which names ``base`` as its base."""
    rewrite(folder / "adapter_config.json", base_model_name_or_path=base)
    return folder
