"""YAML made to do harm, through every reader of strangers' YAML: no crash, little time, little memory."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml_attacks
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.core.bounded_yaml import YamlError, YamlLimits, load_bounded
from hubkit.core.front_matter import find_front_matter

ROOT = Path(__file__).parents[2]
MEMORY = 64_000_000
"""Bytes, for all texts one after the other."""


def _tried(*arguments: str) -> dict[str, object]:
    """What the child reports; it is not killed by a signal, and not by an exception that is none of ours."""
    child = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/yaml_attacks.py"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "toolkit", ROOT / "stages")))},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    return dict(json.loads(child.stdout.splitlines()[-1]))


@pytest.mark.fault("S8")
@pytest.mark.parametrize("reader", yaml_attacks.READERS)
def test_no_attack_ends_the_process_or_takes_a_second(reader: str, record_property: Callable[..., None]) -> None:
    report = _tried(reader)
    times = dict(report["seconds"])  # type: ignore[call-overload]
    worst = max(times, key=lambda name: times[name])
    record_property("figure", f"{len(times)} attacks through {reader} reader: at most {times[worst]:.2f} s ({worst})")
    limit = yaml_attacks.READERS[reader]
    assert times[worst] < limit, {name: taken for name, taken in times.items() if taken >= limit}
    assert int(str(report["bytes"])) < MEMORY


@pytest.mark.fault("S8")
@pytest.mark.parametrize("reader", ["the recipe's and check's", "the embedded Hub's", "card lint's"])
def test_texts_made_of_pieces_of_attacks(reader: str) -> None:
    report = _tried(reader, "300")
    assert max(dict(report["seconds"]).values()) < yaml_attacks.READERS[reader]  # type: ignore[call-overload]
    assert int(str(report["bytes"])) < MEMORY


@pytest.mark.fault("S8")
def test_the_largest_published_cards_are_read() -> None:
    results = load_bounded(yaml_attacks.attacks()["MTEB"])["model-index"][0]["results"]
    assert len(results) == 130 and results[-1]["metrics"][-1] == {"type": "map_at_29", "value": 29.25}


def test_merge_keys_are_expanded_and_what_a_mapping_says_itself_goes_first() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, <<: *a}\nc: {<<: [*b, {z: 3}], y: 4}\n"
    assert load_bounded(text) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 2, "y": 4, "z": 3}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "the key 'a' appears twice (line 2)"),
        ("a: {b: 1, 'b': 2}", "the key 'b' appears twice (line 1)"),
        ("a: &a [*a]", "an alias that stands for itself (line 1)"),
        ("a: &a [x, x, x]\nb: [*a, *a, *a, *a]", "its aliases stand for too many values (line 2)"),
        ("a:\n  <<: 1", "a merge key (<<) without a mapping (line 2)"),
        ("a: [[[[x]]]]", "nested more than 4 deep (line 1)"),
        ("[" + "a, " * 20 + "a]", "more than 20 values (line 1)"),
        ("a" * 1000, "larger than 200 characters"),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(YamlError) as caught:
        load_bounded(text, limits=YamlLimits(characters=200, depth=4, values=20))
    assert str(caught.value) == problem


CARDS = st.lists(
    st.sampled_from(["---", "\n", "\r\n", "\r", " ", "\t", "a: b", "\ufeff", "# x", "----", "\n---\n", "---\n"]),
    max_size=12,
).map("".join)


@settings(max_examples=500)
@given(CARDS)
def test_front_matter_is_found_as_the_hub_finds_it(card: str) -> None:
    theirs, ours = REGEX_YAML_BLOCK.search(card), find_front_matter(card, exact=True)
    if theirs is None:
        assert ours is None or card.startswith("\ufeff")
    else:
        assert ours is not None and ours.text == theirs[2] and card[ours.end :] == card[theirs.end() :]


@pytest.mark.fault("S8")
def test_front_matter_that_only_we_read() -> None:
    assert find_front_matter("---\n" + "\n" * 1_000_000 + "x") is None
    found = find_front_matter("\ufeff\n---\n\n\na: 1\n\n---  \ntext")
    assert found is not None and (found.text, found.line, found.end) == ("\n\na: 1\n", 3, 20)
    for text, inside in {"---\n---\nx": "", "--- \r\na: b---\r\n---": "a: b---"}.items():
        block = find_front_matter(text)
        assert block is not None and block.text == inside


# --- nothing else reads YAML

ALLOWED = {
    "toolkit/hubkit/core/bounded_yaml.py": "the reader",
    "toolkit/hubkit/recipe/draft.py": "a recipe that it wrote itself, with its comments",
    "toolkit/hubkit/recipe/new_recipe.py": "a built-in recipe with its comments, which only ruamel.yaml keeps",
}
READING = {"load", "safe_load", "load_all", "safe_load_all", "full_load", "unsafe_load", "parse", "scan", "compose",
           "compose_all"}  # fmt: skip
LIBRARIES = {"metadata_load", "ModelCard", "DatasetCard", "SpaceCard", "RepoCard", "DatasetCardData.load"}
"""What of huggingface_hub parses cards without limits; transformers, peft and trl call these."""


def _readers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "yaml" and node.attr in READING:
                yield f"yaml.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            if isinstance(node.args[0], ast.Name) and node.args[0].id == "yaml" and "Loader" in ast.unparse(node):
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            names = {item.name for item in node.names}
            if str(node.module).split(".")[0] in {"yaml", "ruamel"} and names & {*READING, "YAML"}:
                yield f"{node.module}: {sorted(names)}"
            yield from sorted(LIBRARIES & names)


@pytest.mark.fault("S8")
def test_nothing_else_reads_yaml() -> None:
    found: dict[str, list[str]] = {}
    for folder in ("toolkit", "stages", "spaces"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if readers := list(_readers(ast.parse(path.read_text(encoding="utf-8")))):
                found[name] = readers
    assert found.keys() == ALLOWED.keys(), {name: found[name] for name in found.keys() - ALLOWED.keys()}
