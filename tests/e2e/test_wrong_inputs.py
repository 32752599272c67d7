"""Wrong inputs, given to the real command: one sentence that says what to do, the documented exit code, no traceback.

`commands.hubkit` asserts for every call that there is no traceback and that the exit code is a documented one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import HUBKIT, environment, hubkit, hubkit_json, read_until, until, workers_of
from samples import RECIPE_TEXT

from hubkit_stages.recipes import tiny

TINY = Path(tiny.RECIPE).read_text(encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    hubkit("hub", "stop", home=tmp_path / "home")


def write(folder: Path, text: str) -> Path:
    """The recipe ``text`` in ``folder``, beside the tasks of the tiny recipe."""
    (folder / "hubkit.yaml").write_text(text, encoding="utf-8")
    shutil.copytree(tiny.RECIPE.parent / "tasks", folder / "tasks")
    return folder


@pytest.mark.fault("C1")
def test_no_recipe_here(home: Path, tmp_path: Path) -> None:
    done = hubkit("release", home=home, cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no recipe at" in done.stderr and "hubkit init" in done.stderr
    assert not home.exists(), "nothing was begun"


@pytest.mark.fault("C1")
def test_a_recipe_with_three_mistakes(home: Path, tmp_path: Path) -> None:
    text = RECIPE_TEXT.replace("visibility: public", "visibility: publik").replace("dpo-v0:", "dpo v0:")
    write(tmp_path, text.replace("base: {repo: them/base}", "base: {rpo: them/base, repo: them/base}"))
    for command in ("release", "plan"):
        done = hubkit(command, home=home, cwd=tmp_path)
        assert done.returncode == 2
        assert "hubkit.yaml has 3 mistakes" in done.stderr
        assert "hubkit.yaml:2: visibility" in done.stderr and "did you mean 'public'?" in done.stderr
        assert "hubkit.yaml:4: base.rpo: unknown key; did you mean 'repo'?" in done.stderr
        assert "a space is not allowed in a branch name" in done.stderr


def test_a_branch_name_with_a_space_for_revisions(home: Path) -> None:
    done = hubkit("revisions", "create", "hubkit/x", "dpo v0", home=home)
    assert done.returncode == 2 and "a space is not allowed" in done.stderr


def test_a_base_that_is_not_there(home: Path, tmp_path: Path) -> None:
    text = RECIPE_TEXT.replace("them/base", "hubkit/nobody-made-this").replace("suites: [tiny_facts]", "suites: []")
    done = hubkit("release", home=home, cwd=write(tmp_path, text))
    assert done.returncode in {2, 3}
    assert "hubkit/nobody-made-this" in done.stderr


def test_the_text_of_the_example_is_not_released_for_another_base(home: Path, tmp_path: Path) -> None:
    text = TINY.replace("repo: hubkit/tiny-hermes\n", "repo: hubkit/nobody-made-this\n").replace("provide: tiny", "")
    done = hubkit("plan", home=home, cwd=write(tmp_path, text))
    assert done.returncode == 2
    assert "card.summary: " in done.stderr and "the text of the built-in recipe 'tiny'" in done.stderr


@pytest.mark.fault("C1")
def test_an_unknown_key_of_the_trainer_is_found_before_training(home: Path, tmp_path: Path) -> None:
    text = TINY.replace("learning_rate:", "lerning_rate:", 1)
    done = hubkit("release", home=home, cwd=write(tmp_path, text))
    assert done.returncode == 2
    assert "lerning_rate" in done.stderr and "learning_rate" in done.stderr
    assert not list(home.glob("runs/*/artifacts/*"))


@pytest.mark.fault("C1")
def test_plan_and_release_report_the_same_mistakes_of_a_recipe_once_each(home: Path, tmp_path: Path) -> None:
    """Those that only libraries and files can tell: TRL's keys, a mapping, a language, a chat template, a suite."""
    text = TINY
    for old, new in (
        ("      beta: 0.1", "      betta: 0.1"),
        ("  template: base", "  template: chatmll"),
        ("mapping: instruction,", "mapping: instructions,"),
        ("  tags: [tiny, example]", "  language: [english]"),
        ("suites: [tiny_facts]", "suites: [tiny_fact]"),
    ):
        assert old in text
        text = text.replace(old, new)
    write(tmp_path, text)
    planned, released = (hubkit(command, home=home, cwd=tmp_path) for command in ("plan", "release"))
    for done in (planned, released):
        assert done.returncode == 2
        listed = done.stderr[done.stderr.index("hubkit.yaml has 5 mistakes:") :]
        lines = [line for line in listed.splitlines() if line.startswith("  hubkit.yaml:")]
        wrong = {
            "chat.template": "chatmll",
            "data.repair.0.mapping": "instructions",
            "stages.dpo.args.betta": "betta",
            "evaluate.suites": "tiny_fact",
            "card.language": "english",
        }
        assert [line.split(": ")[1] for line in lines] == list(wrong)
        shown = [text.splitlines()[int(line.split(":")[1]) - 1] for line in lines]
        assert all(word in line for word, line in zip(wrong.values(), shown, strict=True))
    assert not list(home.glob("runs/*/artifacts/*"))


def test_a_port_in_use(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = hubkit("hub", "start", "--port", str(port), home=home)
    assert done.returncode == 2
    assert f"{port}" in done.stderr and "--port" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
@pytest.mark.fault("F8")
def test_a_full_disk(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home)], check=False).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        done = hubkit("release", "tiny", home=home)
        assert done.returncode == 1, done.stderr
        assert str(home) in done.stderr and " MB free" in done.stderr and "HUBKIT_HOME" in done.stderr
        hubkit("hub", "stop", home=home)
    finally:
        subprocess.run(["umount", str(home)], check=True)


@pytest.mark.fault("F10")
def test_two_releases_of_one_recipe_at_once(home: Path) -> None:
    first = subprocess.Popen(
        [HUBKIT, "release", "tiny"], env=environment(home), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert first.stderr is not None
        read_until(first.stderr, "preflight")
        done = hubkit("release", "tiny", home=home)
        assert done.returncode == 4
        assert "Another process is releasing hubkit/tiny-hermes-dpo to embedded" in done.stderr
        workers = until(lambda: workers_of(first.pid), 20)
    finally:
        first.kill()
        first.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "a killed release leaves no worker behind"


@pytest.mark.fault("F2")
def test_interrupting_leaves_a_run_that_goes_on_and_no_orphan(home: Path) -> None:
    command = subprocess.Popen(
        [HUBKIT, "release", "tiny"], env=environment(home), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert command.stderr is not None
    read_until(command.stderr, "preflight")
    workers = until(lambda: workers_of(command.pid), 20)
    command.send_signal(2)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 130 and "Run the same command again" in said
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    (run,) = hubkit_json("runs", "list", home=home)
    assert run["state"] == "stopped"


@pytest.mark.parametrize("args", [["nonsense"], ["release", "--nonsense"], ["release", "a", "b"], ["hub"]])
def test_usage(args: list[str], home: Path) -> None:
    done = hubkit(*args, home=home)
    assert done.returncode == 2


def test_json_errors_are_json(home: Path, tmp_path: Path) -> None:
    done = hubkit("release", "--json", home=home, cwd=tmp_path)
    assert json.loads(done.stdout)["exit_code"] == done.returncode == 2


def test_help_is_light_and_has_an_example_everywhere(home: Path) -> None:
    code = (
        "import sys; sys.argv=['hubkit','--help']\n"
        "from hubkit.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'gradio', 'lm_eval', 'datasets', 'huggingface_hub'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment(home))
    from click import Context, Group

    from hubkit.cli import cli

    def commands(group: Group, context: Context) -> Iterator[tuple[str, str]]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, Group):
                yield from commands(command, context)
            else:
                yield f"{group.name} {name}", command.get_help(context)

    shown = dict(commands(cli, Context(cli)))
    assert shown
    for name, text in shown.items():
        assert "hubkit " in text.partition("Options:")[0].partition("\n")[2], f"{name} has no example"
        assert "--json" in text and "--quiet" in text, name
