"""Every architecture goes the whole way, by the real command: base, data, DPO, SFT, merge, measuring, card, publishing,
load-back, code blocks, promotion. `pytest -m soak tests/e2e/test_architectures.py` releases all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from architecture_release import ArchitectureRelease
from architectures import ARCHITECTURES
from commands import hubkit_json


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchitectureRelease]:
    made = ArchitectureRelease(tmp_path_factory.mktemp("architectures") / "home").start()
    try:
        yield made
    finally:
        made.stop()


def test_three_that_are_unlike_come_through_the_training(release: ArchitectureRelease) -> None:
    """No token to pad with but the end of the turn; no system role; fused experts."""
    for name, made in release.quick("gpt-2", "gemma-3", "mixtral").items():
        base, data = made["base"]["base.json"], made["data"]["data.json"]
        assert base["end_of_turn"]["token"] == ARCHITECTURES[name].turn_end
        assert (base["pad_token"] == base["end_of_turn"]["token"]) == (name == "gpt-2")
        assert base["pad_reason"]
        assert any(item["code"] == "moved-system" for item in data["findings"]) == (name == "gemma-3")
        for stage in data["stages"].values():
            assert set(stage["closed_once"].values()) == {1.0} and set(stage["end_of_turn_lost"].values()) == {0.0}
        assert made["train[sft]"]["training.json"]["steps"] == 1
        assert made["merge[main]"]["merge.json"]["changed"] > 0
        assert set(made["stopping[main]"]["stopping.json"]["forms"]) == {"merged", "adapter"}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_whole_release(name: str, release: ArchitectureRelease) -> None:
    what, run = ARCHITECTURES[name], release.release(name)
    base = json.loads((run / "artifacts" / "base" / "base.json").read_text())
    assert base["end_of_turn"]["token"] == what.turn_end
    assert (base["pad_token"] == what.turn_end) == (name in {"falcon", "gpt-2"})
    data = json.loads((run / "artifacts" / "data" / "data.json").read_text())
    for stage in data["stages"].values():
        assert set(stage["closed_once"].values()) == {1.0} and set(stage["end_of_turn_lost"].values()) == {0.0}
    assert any(item["code"] == "moved-system" for item in data["findings"]) == name.startswith("gemma")
    published = hubkit_json("check", f"hubkit/{name}-dpo", home=release.home)
    assert not [item for item in published["findings"] if item["level"] == "error"], published
    _loads_without_a_word(run / "artifacts" / "merge[main]" / "model", what.turn_end)


def _loads_without_a_word(model: Path, turn_end: str) -> None:
    """A stranger's batch: padded by the published tokenizer, generated with the published configs, no warning."""
    import logging

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers import logging as library

    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    listener = Listener(logging.WARNING)
    library.get_logger("transformers").addHandler(listener)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in ("Hello.", "What is the capital of France?")
        ]
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        batch.pop("token_type_ids", None)
        loaded = AutoModelForCausalLM.from_pretrained(model)
        loaded.generate(**batch, max_new_tokens=3)
        stops = loaded.generation_config.eos_token_id
    finally:
        library.get_logger("transformers").removeHandler(listener)
    assert heard == []
    assert tokenizer.convert_tokens_to_ids(turn_end) in ([stops] if isinstance(stops, int) else stops)
