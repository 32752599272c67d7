"""Settings beside merged weights: a name of older transformers may be missing only where all of them are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures import make

from hubkit.core.files import write_json
from hubkit.models.merging.companions import model_config, read_settings
from hubkit.publishing.rederiving.beside import differences_beside

OLDER = {"torch_dtype", "rope_theta", "rope_scaling", "rope_local_base_freq"}


@pytest.mark.parametrize("name", ["llama-3", "gemma-3"])
def test_an_older_name_may_be_missing_only_from_a_release_that_has_none(name: str, tmp_path: Path) -> None:
    base = make(name, tmp_path / "base")
    folder = make(name, tmp_path / "release")
    whole = model_config(read_settings(base, "config.json"), "bfloat16", None)
    assert "rope_theta" in whole

    def found(config: dict[str, Any]) -> list[str]:
        write_json(folder / "config.json", config)
        return list(differences_beside(base, folder, "bfloat16", {}))

    assert found(whole) == []
    assert found({key: whole[key] for key in whole if key not in OLDER}) == []
    assert found({key: whole[key] for key in whole if key != "rope_theta"}) == ["config.json: rope_theta is missing"]
    kept = {key: whole[key] for key in whole if key not in OLDER} | {"rope_theta": 3.0}
    assert "config.json: rope_theta is not the base's" in found(kept)
