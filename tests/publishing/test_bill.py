"""The bill of materials and the summary of the training content: valid, and nothing but what the manifest says."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import hubkit
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing
from releases import REPO, Release, hub_of

from hubkit.core.licenses import license_identifiers
from hubkit.publishing.bill.bill import bill_of, bill_text
from hubkit.publishing.bill.compute import operations, share_of_original, tokens
from hubkit.publishing.bill.facts import Facts
from hubkit.publishing.bill.licenses import spdx_id
from hubkit.publishing.bill.training_summary import summary_of
from hubkit.server.process import Running

MANIFEST: dict[str, Any] = {
    "schema": 1,
    "made_by": {"hubkit": "0.1.0", "torch": "2.13.0+cpu", "trl": "1.16.0"},
    "repo": "me/my-model",
    "variant": "dpo-v0",
    "branch": "v0",
    "license": "apache-2.0",
    "license_name": "of-mine",
    "base": {
        "repo": "them/base", "commit": "b" * 40, "license": "llama3.2", "architecture": "LlamaForCausalLM",
        "parameters": 1_234_567,
    },
    "data": [
        {"set": "pairs", "repo": "them/pairs", "commit": "c" * 40, "split": "train", "license": "cc-by-4.0",
         "rows": 321},
        {"set": "own", "repo": "rows.jsonl", "commit": "d" * 64, "split": "part", "local": True, "rows": 45},
        {"set": "unused", "repo": "them/unused", "commit": "e" * 40, "split": "train", "license": "mit"},
    ],
    "stage": "dpo",
    "merge": {"torch": "2.13.0", "device": "cpu", "cpu": "AVX2"},
    "trainings": [
        {"stage": "sft", "method": "sft", "form": "adapter", "rows": 45, "epochs": 1.5, "steps": 77, "tokens": 8_000,
         "seconds": 61.5, "device": "CPU"},
        {"stage": "dpo", "method": "dpo", "form": "adapter", "rows": 321, "epochs": 2.0, "steps": 78, "tokens": 9_000},
    ],
    "recipe": {"seed": 17, "stages": {"sft": {"data": "own"}, "dpo": {"data": "pairs"}}},
    "recipe_digest": "f" * 64,
    "stop_rates": {"adapter": 0.984375, "merged": 0.9921875},
    "answers": {"max_new_tokens": 63, "forms": {"merged": {"stopped": 127, "prompts": 128}}},
    "average": 0.4321,
    "files": [
        {"path": "README.md", "size": 5, "sha256": "9" * 64, "git": "9" * 40},
        {"path": "model.safetensors", "size": 5, "sha256": "a" * 64, "git": "a" * 40},
    ],
}  # fmt: skip
_OF_THE_FORMAT = {
    "$schema", "bomFormat", "specVersion", "version", "serialNumber", "bom-ref", "ref", "dependsOn", "type", "alg",
}  # fmt: skip
"""Keys whose values are the format's own words, or names inside the bill."""


def assert_valid(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, key)
    else:
        yield key, value


def test_it_is_valid_and_the_same_each_time() -> None:
    assert_valid(bill_text(MANIFEST, "1" * 40))
    assert bill_text(MANIFEST) == bill_text(copy.deepcopy(MANIFEST))
    assert bill_of(MANIFEST)["serialNumber"] != bill_of(MANIFEST, "1" * 40)["serialNumber"]


def test_it_says_what_the_manifest_says() -> None:
    bill = bill_of(MANIFEST, "1" * 40)
    model = bill["metadata"]["component"]
    assert model["name"] == "me/my-model" and model["purl"] == f"pkg:huggingface/me/my-model@{'1' * 40}"
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    found = {item["bom-ref"]: item for item in bill["components"]}
    assert found["base"]["licenses"] == [{"license": {"name": "llama3.2"}}]
    assert found["data:pairs:them/pairs:train"]["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
    assert found["data:own:rows.jsonl:part"]["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    assert not [name for name in found if "unused" in name], "no stage of this variant was trained on it"
    assert found["library:torch"]["purl"] == "pkg:pypi/torch@2.13.0"
    said = {item["name"]: item["value"] for item in model["properties"]}
    assert said["hubkit:training:dpo:tokens"] == "9000" and said["hubkit:merge:cpu"] == "AVX2"
    assert said["hubkit:license_name"] == "of-mine" and "hubkit:released as" not in said
    assert said["hubkit:training:operations (6ND)"] == str(6 * 1_234_567 * 17_000)
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[1] == {
        "type": "stop rate, merged", "value": "0.9921875", "slice": "127 of 128 answers, at most 63 new tokens",
    }  # fmt: skip
    assert set(bill["dependencies"][-1]["dependsOn"]) == set(found)


def test_every_value_is_one_of_the_manifest() -> None:
    known = {str(value) for _, value in leaves(MANIFEST)} | set(MANIFEST["made_by"])
    computed = {"me", "my-model", "them", "base", "huggingface", "pypi", "2.13.0", str(6 * 1_234_567 * 17_000)}
    spdx = set(get_spdx_licensing().known_symbols)
    for key, value in leaves(bill_of(MANIFEST)):
        if key in _OF_THE_FORMAT or (key == "name" and str(value).startswith("hubkit:")):
            continue
        if key == "id":
            assert value in spdx and value.lower() in known
            continue
        parts = re.split(r"[@/]", value.removeprefix("pkg:")) if key == "purl" else [str(value)]
        if key == "slice":
            parts = re.findall(r"\d+", value)
        for part in parts:
            assert part in known | computed, (key, value)


def _without(value: Any, place: tuple[Any, ...]) -> Any:
    made = copy.deepcopy(value)
    holder = made
    for step in place[:-1]:
        holder = holder[step]
    del holder[place[-1]]
    return made


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if before:
        yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _places(item, (*before, name))


def test_what_the_manifest_lacks_is_left_out_and_the_rest_stays() -> None:
    """Each fact is taken away once: the bill stays valid, and the fact is nowhere in it."""
    for number, place in enumerate(_places(MANIFEST)):
        if place[0] == "files" and len(place) > 2:
            continue  # a manifest's list of files is whole, or it is refused
        text = bill_text(made := _without(MANIFEST, place))
        summary_of(Facts(made))
        if number % 6 == 0:
            assert_valid(text)
    empty = bill_of({})
    assert_valid(bill_text({}))
    assert empty.get("components", []) == [] and "modelCard" not in empty["metadata"]["component"]
    lines = [
        line for line in summary_of(Facts({})).splitlines() if line.startswith("| ") and not line.startswith("| |")
    ]
    assert lines and all(line.endswith("|  |") for line in lines), "every field is empty"


@pytest.mark.parametrize(
    "hostile",
    [
        {"data": 1, "made_by": [], "base": "x", "trainings": {"a": 1}, "recipe": None, "files": "x"},
        {"base": {"repo": "a|b\n# c", "parameters": "many"}, "data": [{"set": "a", "repo": ["x"]}], "trainings": [1]},
        {"license": "unknown", "stop_rates": {"merged": None}, "answers": {"forms": 3}, "average": "x", "files": [1]},
        {"made_by": {"torch": "", "x y": "1"}, "data": [{"set": "s", "repo": "them/x", "license": "<b>"}]},
        {"made_by": {"": "1", "torch": "2"}, "repo": "/", "base": {"repo": "a/b/c", "parameters": 5}},
        {"trainings": [{"stage": "s", "tokens": float("inf")}], "base": {"repo": "them/base", "parameters": 5}},
        {"trainings": [{"stage": "s", "tokens": -5}], "base": {"repo": "them/base", "parameters": 5}},
    ],
)
def test_manifests_of_strangers(hostile: dict[str, Any]) -> None:
    assert_valid(bill_text(hostile, "1" * 40))
    assert operations(Facts(hostile)) is None
    assert "\n# c" not in summary_of(Facts(hostile)) and "<b>" not in summary_of(Facts(hostile))


def test_two_parts_of_one_dataset_are_two() -> None:
    """By the configuration that the recipe names, and where there is none by a number."""
    source = {"set": "pairs", "repo": "them/pairs", "commit": "c" * 40, "split": "train"}
    manifest = copy.deepcopy(MANIFEST)
    manifest["data"] = [{**source, "rows": rows} for rows in (100, 900, 7)]
    manifest["recipe"]["data"] = {"pairs": [{"repo": "them/pairs", "config": "one"}, {"repo": "them/pairs"}]}
    assert_valid(text := bill_text(manifest))
    bill = json.loads(text)
    parts = {item["bom-ref"]: item["properties"] for item in bill["components"] if item["type"] == "data"}
    rows = {name: {item["name"]: item["value"] for item in listed}["hubkit:rows"] for name, listed in parts.items()}
    assert rows == {
        "data:pairs:them/pairs:one:train": "100",
        "data:pairs:them/pairs:train": "900",
        "data:pairs:them/pairs:train:2": "7",
    }
    refs = bill["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]
    assert [item["ref"] for item in refs] == list(rows)
    assert f"| them/pairs | {'c' * 40} | one, train | 100 |" in summary_of(Facts(manifest))


def test_a_copy_has_the_address_that_was_read() -> None:
    model = bill_of(MANIFEST, "1" * 40, "me/copy")["metadata"]["component"]
    assert model["name"] == "me/copy" and model["purl"] == f"pkg:huggingface/me/copy@{'1' * 40}"
    assert {"name": "hubkit:released as", "value": "me/my-model"} in model["properties"]


def test_licenses_are_those_of_spdx() -> None:
    known = {name: spdx_id(name) for name in license_identifiers()}
    assert known["apache-2.0"] == "Apache-2.0" and known["odbl"] == "ODbL-1.0" and known["wtfpl"] == "WTFPL"
    assert known["c-uda"] == "C-UDA-1.0"
    assert known["agpl-3.0"] == "AGPL-3.0" and known["cc-by-nc-sa-4.0"] == "CC-BY-NC-SA-4.0"
    for unversioned in ("bsd", "cc", "gpl", "lgpl", "gfdl", "openrail", "llama3.1", "gemma", "other"):
        assert known[unversioned] is None, unversioned
    assert sum(1 for value in known.values() if value) > 45 and spdx_id("nonsense") is None


def test_compute_is_told_only_where_it_was_measured() -> None:
    facts = Facts(MANIFEST)
    assert tokens(facts) == 17_000 and operations(facts) == 6 * 1_234_567 * 17_000
    assert share_of_original(facts, 1_700_000) == 0.01 and share_of_original(facts, None) is None
    resumed = copy.deepcopy(MANIFEST)
    del resumed["trainings"][0]["tokens"]
    assert tokens(Facts(resumed)) is None and operations(Facts(resumed)) is None
    assert operations(Facts({**MANIFEST, "adopted": {"name": "x"}})) is None
    assert operations(Facts({**MANIFEST, "base": {"repo": "them/base"}})) is None
    assert "1.0 % (less than a third)" in summary_of(facts, original_tokens=1_700_000)
    assert "| Share of the original's training compute |  |" in summary_of(facts)


def test_the_commands(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train().publish()
    commit = hub_of(release).head(REPO, "staging/main")

    def run(*args: str) -> str:
        done = hubkit(
            "revisions", *args, "--hub", hub.url, home=tmp_path / "home", HF_ENDPOINT=hub.url, HF_TOKEN=str(hub.token)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    bill = json.loads(text := run("bom", REPO, "staging/main"))
    assert_valid(text)
    assert bill["metadata"]["component"]["version"] == commit
    run("bom", REPO, "staging/main", "-o", str(tmp_path / "bom.json"))
    assert json.loads((tmp_path / "bom.json").read_text()) == bill
    said = json.loads(run("disclosure", REPO, "staging/main", "--base-tokens", "5", "--json"))
    assert f"| Modification of | them/base at {'b' * 40} |" in said["text"]
    assert said["tokens"] is None and said["share_of_original"] is None
