"""The tiny release, derived again from its manifest: the weights of each branch, and one whole training."""

from __future__ import annotations

import pytest
from commands import hubkit, hubkit_json
from tiny_release import REPO, Released

pytestmark = [pytest.mark.train, pytest.mark.soak]


@pytest.mark.parametrize("branch", ["main", "dpo-v0"])
def test_the_weights_are_the_adapter_merged_again(released: Released, branch: str) -> None:
    found = hubkit_json("verify", f"{REPO}@{branch}", "--rederive", home=released.home)
    assert found["sound"] and found["rederived"]["equal"] and found["rederived"]["merge"]["changed"] > 0
    versions = found["rederived"]["versions"]
    assert all(item["release"] == item["here"] for item in versions.values()) and "torch" in versions


def test_the_release_is_reproduced_bit_by_bit(released: Released) -> None:
    """Its trainings were killed and interrupted; these are not, and give the same bits."""
    refs = released.refs()
    found = hubkit_json("reproduce", f"{REPO}@dpo-v0", "-y", home=released.home)
    assert found["is_equal"] and "adapter/adapter_model.safetensors" in found["equal"], found
    assert "model.safetensors" in found["equal"] and not found["different"]
    assert released.refs() == refs, "nothing is published"
    done = hubkit("reproduce", f"{REPO}@dpo-v0", "-y", "--seed", "7", home=released.home)
    assert done.returncode == 4 and "seed: seed: 0 in the release, 7 here" in done.stdout, done.stderr
    assert "different adapter/adapter_model.safetensors" in done.stdout
