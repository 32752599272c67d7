"""The registry of rules: every finding names a rule of it, and every rule is one that a test has seen."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from commands import hubkit

from hubkit.cli.rules import MODULES, all_rules
from hubkit.core.findings import Finding, in_order, rule

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "toolkit" / "hubkit").rglob("*.py"))
STAGES = sorted((ROOT / "stages" / "hubkit_stages").rglob("*.py"))


def calls(path: Path, name: str) -> list[ast.Call]:
    """The calls of the function or class ``name`` in a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name]


def test_every_module_that_registers_rules_is_listed() -> None:
    own = ROOT / "toolkit" / "hubkit" / "core" / "findings.py"
    registering = [path for path in SOURCES if path != own and calls(path, "rule")]
    names = {".".join(path.relative_to(ROOT / "toolkit").with_suffix("").parts) for path in registering}
    assert names == set(MODULES)


def test_every_finding_of_the_toolkit_is_made_by_a_rule() -> None:
    """Only the check of a stage makes one itself; it then belongs to the rule 'stage'."""
    apart = {"core/findings.py", "pipeline/preflight.py", "pipeline/worker.py", "training/checks.py", "training/fit.py"}
    apart |= {"pipeline/costs/room.py", "training/launch_checks.py"}
    apart |= {"cards/kept_edits.py", "models/gguf/runtime_needs.py", "publishing/place_findings.py"}  # of two stages
    makers = {path.relative_to(ROOT / "toolkit" / "hubkit").as_posix() for path in SOURCES if calls(path, "Finding")}
    assert makers <= apart


def test_rules_that_are_named_in_words_are_registered() -> None:
    named = {
        match
        for path in [*SOURCES, *STAGES]
        for match in re.findall(r"(?:rule=|\.rule (?:==|in) \{?)\"([\w-]+)\"", path.read_text(encoding="utf-8"))
    }
    assert named <= all_rules().keys()


def test_every_rule_is_one_that_a_test_has_seen(request: pytest.FixtureRequest) -> None:
    """By its name in quotes, or as a finding is printed: ``[name]``."""
    folders = ("checks", "cards", "models", "publishing", "faults", "stages", "training")
    tests = "".join(
        path.read_text(encoding="utf-8") for name in folders for path in (ROOT / "tests" / name).glob("test_*.py")
    )
    unseen = [name for name in all_rules() if not re.search(rf"[\"'\[ -]{name}[\"'\]]", tests)]
    assert unseen == []


def test_rules_are_sentences() -> None:
    for item in all_rules().values():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", item.id)
        assert item.finds.endswith(".") and item.why.endswith(".") and item.used_by, item.id
    with pytest.raises(ValueError, match="two rules 'pickle'"):
        rule("pickle", "error", "", "")


def test_one_order_without_repetitions() -> None:
    late, early = (Finding("warning", "w", file="README.md", line=line) for line in (9, 2))
    note, error = Finding("note", "n"), Finding("error", "e", file="z")
    assert in_order([note, late, early, late, error]) == [error, early, late, note]
    assert (late.place, error.place, note.place) == ("README.md:9", "z", "")
    assert Finding("error", "e", file="a\nb").place == "'a\\nb'"


def test_the_command(tmp_path: Path) -> None:
    listed = json.loads(hubkit("rules", "--json", home=tmp_path).stdout)
    assert [item["id"] for item in listed] == sorted(all_rules())
    done = hubkit("rules", "adapter-base", home=tmp_path)
    assert done.returncode == 0 and "check" in done.stdout and all_rules()["adapter-base"].why in done.stdout
    renamed = json.loads(hubkit("rules", "licence-missing", "--json", home=tmp_path).stdout)
    assert renamed["id"] == "license-missing", "the id of earlier versions"
    done = hubkit("rules", "adapter-bse", home=tmp_path)
    assert done.returncode == 2 and "Did you mean 'adapter-base'?" in done.stderr
