"""A sound model to break, and what `hubkit check` reports of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hubkit.checks.model import CheckReport, FolderSource, check
from hubkit.models.chat.library import CHATML

CARD = "---\nlicense: apache-2.0\nbase_model: me/base\n---\n# Tiny\n"


@pytest.fixture(scope="session")
def published(make_model, make_tokenizer, tmp_path_factory) -> Path:
    """A sound model with its adapter in a folder of its own, as hubkit publishes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("published")
    model = make_model().to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="50KB")
    tokenizer = make_tokenizer(CHATML, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"])
    assert tokenizer.eos_token_id == 257
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 257}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 2]}))
    tokenizer.save_pretrained(folder)
    adapter = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapter.peft_config["default"].base_model_name_or_path = "me/base"
    adapter.peft_config["default"].revision = "0" * 40
    adapter.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def model(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "model"))


def look(folder: Path) -> CheckReport:
    return check(FolderSource(folder))


def said(report: CheckReport, level: str = "error") -> str:
    found = (finding for finding in report.findings if finding.level == level)
    return "\n".join(f"{finding.place}: {finding.message} [{finding.rule}]" for finding in found)


def put(path: Path, **changes) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: item for key, item in {**value, **changes}.items() if item is not None}))
