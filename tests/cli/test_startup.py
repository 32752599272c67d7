"""What a command must not import. Not timed: tests/benchmarks/startup.py measures the seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import asked_once
import pytest
from commands import environment
from releases import REPO, Release

from hubkit.server.process import Running

HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "gradio",
    "lm_eval",
    "matplotlib",
    "numpy",
    "peft",
    "pygit2",
    "starlette",
    "torch",
    "transformers",
    "trl",
    "uvicorn",
}
"""No command of this file may import these."""
MIDDLING = {
    "detect_secrets",
    "filelock",
    "httpx2",
    "huggingface_hub",
    "jinja2",
    "markdown_it",
    "psutil",
    "pydantic",
    "rich",
    "yaml",
}
"""What hubkit depends on, click excepted: instant commands do without all of it."""


def imported(home: Path, *args: str, cwd: Path | None = None, **variables: str) -> set[str]:
    """The modules that `hubkit args` has imported when it ends; it must end with 0."""
    code = (
        "import json, os, sys\n"
        f"sys.argv = ['hubkit', *{args!r}]\n"
        "from hubkit.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "os.write(int(os.environ['REPORT']), json.dumps(sorted(sys.modules)).encode())\n"
    )
    report = home.with_name("modules.json")
    with report.open("wb") as file:
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment(home, REPORT=str(file.fileno()), **variables),
            cwd=cwd or home.parent,
            pass_fds=[file.fileno()],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    return set(json.loads(report.read_text()))


def tops(modules: set[str]) -> set[str]:
    """The packages that ``modules`` belong to."""
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_and_version_import_no_command(tmp_path: Path, args: list[str]) -> None:
    modules = imported(tmp_path / "home", *args)
    assert not tops(modules) & (HEAVY | MIDDLING)
    ours = {name for name in modules if name.startswith("hubkit.")}
    assert not {name for name in ours if not name.startswith(("hubkit.cli", "hubkit.core"))}
    assert {name for name in ours if name.startswith("hubkit.cli.")} == {"hubkit.cli.lazy", "hubkit.cli.options"}


@pytest.mark.parametrize(
    "args",
    [
        ["release", "--help"],
        ["plan", "--help"],
        ["revisions", "--help"],
        ["revisions", "list", "--help"],
        ["card", "--help"],
        ["card", "tables", "--help"],
        ["check", "--help"],
        ["merge", "--help"],
        ["convert", "--help"],
        ["gguf", "--help"],
        ["readers", "--help"],
        ["verify", "--help"],
        ["space", "deploy", "--help"],
        ["runs", "--help"],
        ["doctor", "--help"],
        ["hub", "start", "--help"],
        ["completion", "bash"],
        ["hub", "status"],
    ],
)
def test_instant_commands_import_the_standard_library_and_click(tmp_path: Path, args: list[str]) -> None:
    assert not tops(imported(tmp_path / "home", *args)) & (HEAVY | MIDDLING)


@pytest.mark.parametrize(
    "words", ["hubkit ", "hubkit rel", "hubkit release ", "hubkit release t --hub ", "hubkit runs show "]
)
def test_completion_is_instant(tmp_path: Path, words: str) -> None:
    count = str(len(words.split(" ")) - 1)
    variables = {"_HUBKIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
    assert not tops(imported(tmp_path / "home", **variables)) & (HEAVY | MIDDLING)


def test_hub_status_of_a_running_hub(hub: Running, tmp_path: Path) -> None:
    assert not tops(imported(tmp_path, "hub", "status")) & (HEAVY | MIDDLING)


def test_listing_revisions_imports_the_hub_client_and_no_recipe(hub: Running, tmp_path: Path) -> None:
    release = Release.on(hub, tmp_path).train().publish()
    release.promote()
    modules = imported(tmp_path, "revisions", "list", REPO)
    assert {"huggingface_hub", "rich"} <= tops(modules)
    assert not tops(modules) & (
        HEAVY | MIDDLING - {"huggingface_hub", "rich", "httpx2", "filelock", "yaml", "pydantic"}
    )
    assert not {"hubkit.recipe.models", "hubkit.checks.screening", "hubkit.pipeline"} & modules


def test_a_plan_imports_no_hub_client(tmp_path: Path) -> None:
    asked_once.lend(tmp_path / "home")
    modules = imported(tmp_path / "home", "plan", "tiny")
    asked_once.keep(tmp_path / "home")
    assert not tops(modules) & HEAVY
