"""Run huggingface_hub's own tests against an embedded Hub.

    python tests/conformance/run.py [--work FOLDER] [--xet] [--all] [pytest arguments, or test ids]
    python tests/conformance/run.py --both --report docs/conformance.md    # all of them, in both modes

Downloads the source distribution of the installed huggingface_hub with pip, starts a Hub seeded with the accounts
that those tests expect, and runs the ids in ``core.txt``, or with ``--all`` the whole suite without those in
``left_out.toml``. The conftest is our own (theirs is not in the distribution). The last line says how many passed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubkit.server import process
from hubkit.server.accounts.accounts import accounts_of
from hubkit.server.accounts.seed import read_seed

HERE = Path(__file__).parent
_MARKERS = ["api", "transfer", "inference", "xet", "no_xet", "production", "deprecated", "git_lfs", "vcr"]
_MARKERS += ["usefixtures"]
_NOT_COLLECTED = {"test_generate_cli_reference.py": "It tests a script of the repo that the distribution lacks."}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def upstream(work: Path, library: str = "huggingface_hub") -> Path:
    """The unpacked source distribution of the installed version of a library, below ``work``."""
    version = importlib.metadata.version(library)
    folder = work / f"{library}-{version}"
    if not folder.is_dir():
        pip = [*PIP, "download", "-q", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*pip, "-d", str(work), f"{library}=={version}"], check=True)
        with tarfile.open(next(work.glob(f"{library}-*.tar.gz"))) as archive:
            archive.extractall(work, filter="data")
    return folder


def libraries(work: Path) -> Path:
    """A folder with what the whole suite imports besides; it is installed once."""
    folder = work / "libraries"
    if not folder.is_dir():
        pip = [*PIP, "install", "-q", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    return folder


def prepare(folder: Path) -> None:
    """Our conftest, plugin and ini beside the tests."""
    tests = folder / "tests"
    (tests / "__init__.py").touch()
    shutil.copy(HERE / "upstream_conftest.py", tests / "conftest.py")
    shutil.copy(HERE / "hubconf.py", folder / "hubconf.py")
    lines = "\n".join(f"    {name}: upstream" for name in _MARKERS)
    (folder / "local.ini").write_text(f"[pytest]\naddopts = -p hubconf\nmarkers =\n{lines}\n", encoding="utf-8")


def seed(data: Path, constants: str) -> None:
    """The users, tokens and organizations that ``testing_constants.py`` names."""
    named = dict(re.findall(r'^(\w+) = "([^"]*)"', constants, re.MULTILINE))
    users = [
        {"name": named["USER"], "fullname": named["FULL_NAME"], "token": named["TOKEN"]},
        {"name": named["OTHER_USER"], "token": named["OTHER_TOKEN"]},
        {"name": named["ENTERPRISE_USER"], "token": named["ENTERPRISE_TOKEN"]},
    ]
    orgs = [
        {"name": "valid_org_hub", "fullname": "Dummy Hub Org", "members": {named["USER"]: "write"}},
        {
            "name": named["ENTERPRISE_ORG"],
            "members": {named["ENTERPRISE_USER"]: "admin"},
            "default_visibility": "private",
        },
    ]
    file = data.with_suffix(".json")
    file.write_text(json.dumps({"users": users, "orgs": orgs}), encoding="utf-8")
    with accounts_of(data) as accounts:
        read_seed(file).apply(accounts)


@dataclass
class Outcome:
    """What became of one run: pytest's exit status, how many tests passed, failed, were skipped or left out."""

    status: int
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    left_out: list[tuple[str, int]] = field(default_factory=list)


def left_out(mode: str) -> list[dict[str, Any]]:
    """The entries of the list that count in a mode."""
    entries = tomllib.loads((HERE / "left_out.toml").read_text(encoding="utf-8"))["left_out"]
    return [entry for entry in entries if entry.get("mode", mode) == mode]


def run(folder: Path, *, xet: bool, everything: bool, rest: list[str]) -> Outcome:
    """Run the tests once, on a fresh Hub."""
    with tempfile.TemporaryDirectory(prefix="hub-conformance-") as temporary:
        place = Path(temporary)
        data = place / "hub"
        data.mkdir()
        seed(data, (folder / "tests" / "testing_constants.py").read_text(encoding="utf-8"))
        running = process.start(data, port=0)
        try:
            environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
            environment |= {"HF_ENDPOINT": running.url, "HF_HOME": str(place / "home"), "PYTHONPATH": str(folder)}
            environment |= {} if xet else {"HF_HUB_DISABLE_XET": "1"}
            named = any(item.startswith("tests/") for item in rest)
            ids = [] if named else ["tests/"] if everything else [f"@{HERE / 'core.txt'}"]
            options = ["-c", "local.ini", "--rootdir", ".", "--timeout", "120", "--junitxml", str(place / "report.xml")]
            entries = left_out("xet" if xet else "lfs")
            if everything:
                listed = place / "left_out.json"
                listed.write_text(json.dumps(entries), encoding="utf-8")
                environment |= {
                    "HUBKIT_LEFT_OUT": str(listed), "PYTHONPATH": f"{folder}{os.pathsep}{libraries(folder.parent)}"
                }  # fmt: skip
                options += [option for name in _NOT_COLLECTED for option in ("--ignore", f"tests/{name}")]
                options += ["-n", "4", "-q", "--tb=short", "-p", "no:cacheprovider"]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, *ids, *rest], cwd=folder, env=environment
            ).returncode
            outcome = _counted(place / "report.xml", done)
            if everything and not named:
                counts = json.loads((place / "left_out.json.counts").read_text())
                outcome.left_out = [(entry["reason"], count) for entry, count in zip(entries, counts, strict=True)]
            return outcome
        finally:
            process.stop(data)


def _counted(report: Path, status: int) -> Outcome:
    outcome = Outcome(status)
    for case in ElementTree.parse(report).getroot().iter("testcase") if report.exists() else ():
        kinds = {child.tag for child in case}
        failed = bool(kinds & {"failure", "error"})
        outcome.failed += failed
        outcome.skipped += "skipped" in kinds and not failed
        outcome.passed += not kinds & {"failure", "error", "skipped"}
    return outcome


def written(outcomes: dict[str, Outcome]) -> str:
    """The report: how many passed in each mode, and what was left out, with the reasons."""
    version = importlib.metadata.version("huggingface_hub")
    xet = importlib.metadata.version("hf_xet")
    lines = [
        "# huggingface_hub's own tests on the embedded Hub", "",
        f"Written by `make conformance`. The tests are those of the source distribution of huggingface_hub {version} "
        f"(hf_xet {xet}), unchanged; the Hub is fresh and seeded as by `hubkit hub start --seed`.", "",
        "| client | passed | failed | skipped by themselves | left out |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for mode, outcome in outcomes.items():
        total = sum(count for _, count in outcome.left_out)
        lines.append(f"| {mode} | {outcome.passed:,} | {outcome.failed:,} | {outcome.skipped:,} | {total:,} |")
    lines += ["", "## Left out", "", "| tests | " + " | ".join(outcomes) + " |", "|---|" + "---|" * len(outcomes)]
    reasons = dict.fromkeys(reason for outcome in outcomes.values() for reason, _ in outcome.left_out)
    for reason in reasons:
        counts = [dict(outcome.left_out).get(reason, 0) for outcome in outcomes.values()]
        lines.append(f"| {reason} | {' | '.join(map(str, counts))} |")
    for name, reason in _NOT_COLLECTED.items():
        lines.append(f"| `{name}`: {reason[0].lower()}{reason[1:]}" + " | the file" * len(outcomes) + " |")
    lines += [
        "", "Their names are in [tests/conformance/left_out.toml](../tests/conformance/left_out.toml).", "",
        "## datasets and transformers", "",
        "`make conformance` also runs the Hub tests of `datasets`, of its source distribution, in both modes; those of "
        "buckets are left out. The Hub tests of `transformers` are in its git repo alone: "
        "[tests/conformance/README.md](../tests/conformance/README.md) says how to run them.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Run; pytest's exit status, or 1 when an entry of the list names no test."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, help="keep the downloads here")
    parser.add_argument("--xet", action="store_true", help="let the client use Xet")
    parser.add_argument("--all", action="store_true", help="run the whole suite")
    parser.add_argument("--both", action="store_true", help="run the whole suite in both modes")
    parser.add_argument("--report", type=Path, help="write what became of the whole suite to this file")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="hub-conformance-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        folder = upstream(work.resolve())
        prepare(folder)
        modes = [False, True] if options.both else [options.xet]
        outcomes = {
            "default (Xet)" if xet else "`HF_HUB_DISABLE_XET=1`": run(
                folder, xet=xet, everything=options.all or options.both, rest=rest
            )
            for xet in modes
        }
    if options.report:
        options.report.write_text(written(outcomes), encoding="utf-8")
    unused = [reason for outcome in outcomes.values() for reason, count in outcome.left_out if not count]
    for reason in unused:
        sys.stderr.write(f"left_out.toml names no test here any more: {reason}\n")
    return max([*(outcome.status for outcome in outcomes.values()), int(bool(unused))])


if __name__ == "__main__":
    sys.exit(main())
