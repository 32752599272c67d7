"""`hubkit completion`: the scripts, what they complete, and where they are installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json

from hubkit.core.files import write_json


def completed(words: str, home: Path, **variables: str) -> list[str]:
    """What bash offers after ``words``, by the real script in a real bash."""
    script = (
        "source <(hubkit completion bash)\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n"
        "compopt() { :; }\n"  # which is an error outside of a completion that readline has asked for
        "_hubkit_completion hubkit\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{HUBKIT.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment(home, PATH=path, **variables),
        cwd=home.parent,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hubkit rel", ["release"]),
        ("hubkit revisions pr", ["promote", "prune"]),
        ("hubkit plan ti", ["tiny"]),
        ("hubkit release dpo", ["dpo-repair", "dpo-sft-mixed", "dpopenhermes-7b"]),
        ("hubkit init x --from t", ["tiny"]),
        ("hubkit release tiny --hub e", ["embedded"]),
        ("hubkit revisions list me/x --type da", ["dataset"]),
        ("hubkit release --overwrite", ["--overwrite-card"]),
        ("hubkit completion install --shell f", ["fish"]),
        ("hubkit runs show mine", ["mine-1", "mine-2"]),
    ],
)
def test_bash_completes(tmp_path: Path, words: str, offered: list[str]) -> None:
    home = tmp_path / "home"
    for name in ("mine-1", "mine-2", "other-1"):
        write_json(home / "runs" / name / "run.json", {"id": name})
    assert completed(words, home) == offered


def test_a_recipe_of_this_folder_and_a_hub_of_the_environment_are_offered(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").touch()
    assert completed("hubkit plan th", tmp_path / "home") == ["theirs.yaml"]
    url = "https://hub.corp.example"
    assert completed("hubkit plan --hub h", tmp_path / "home", HF_ENDPOINT=url) == ["huggingface", url]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(tmp_path: Path, shell: str) -> None:
    script = hubkit("completion", shell, home=tmp_path / "home").stdout
    assert f"_HUBKIT_COMPLETE={shell}_complete" in script
    assert hubkit_json("completion", shell, home=tmp_path / "home") == {"shell": shell, "script": script}


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/hubkit"),
        ("zsh", ".zfunc/_hubkit"),
        ("fish", ".config/fish/completions/hubkit.fish"),
    ],
)
def test_install_writes_one_file_and_changes_no_start_up_file(tmp_path: Path, shell: str, place: str) -> None:
    variables = {
        "HOME": str(tmp_path),
        "SHELL": f"/bin/{shell}",
        "XDG_DATA_HOME": "",
        "XDG_CONFIG_HOME": "",
        "ZDOTDIR": "",
    }
    start_up = {name: tmp_path / name for name in (".bashrc", ".zshrc")}
    for path in start_up.values():
        path.write_text("# mine\n")
    home = tmp_path / "home"
    done = hubkit_json("completion", "install", home=home, **variables)
    assert done == {"shell": shell, "path": str(tmp_path / place), "written": True}
    assert (tmp_path / place).read_text() == hubkit("completion", shell, home=home).stdout
    again = hubkit("completion", "install", "--shell", shell, home=home, **variables)
    assert again.stdout == f"Up to date: {tmp_path / place}\n"
    assert (f"Add this line to {tmp_path / '.zshrc'}" in again.stderr) == (shell == "zsh")
    assert {path.read_text() for path in start_up.values()} == {"# mine\n"}
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*start_up.values(), tmp_path / place}


def test_a_start_up_file_that_reads_the_folder_needs_no_line(tmp_path: Path) -> None:
    (tmp_path / ".zshrc").write_text("fpath+=(~/.zfunc)\nautoload -Uz compinit; compinit\n")
    variables = {"HOME": str(tmp_path), "ZDOTDIR": ""}
    done = hubkit("completion", "install", "--shell", "zsh", home=tmp_path / "home", **variables)
    assert "Add this line" not in done.stderr


def test_somebody_elses_file_stays(tmp_path: Path) -> None:
    place = tmp_path / ".config/fish/completions/hubkit.fish"
    place.parent.mkdir(parents=True)
    place.write_text("complete -c hubkit -a mine\n")
    variables = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    done = hubkit("completion", "install", "--shell", "fish", home=tmp_path / "home", **variables)
    assert done.returncode == 2 and f"{place} is not a completion script of hubkit" in done.stderr
    assert place.read_text() == "complete -c hubkit -a mine\n"


@pytest.mark.parametrize("shell", ["", "/usr/bin/nu"])
def test_another_shell_is_refused(tmp_path: Path, shell: str) -> None:
    done = hubkit("completion", "install", home=tmp_path / "home", SHELL=shell, HOME=str(tmp_path))
    assert done.returncode == 2 and "bash, zsh, fish" in done.stderr and "--shell" in done.stderr
