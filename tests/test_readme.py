"""The README stays true: its commands, its recipe and its files exist. (The tree: test_architecture.py.)"""

import re
from pathlib import Path

import click

from hubkit.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_commands_of_the_table_exist_and_none_is_left_out() -> None:
    told = {line.split("`")[1] for line in README.splitlines() if line.startswith("| `hubkit ")}
    context = click.Context(cli)
    names = {words.split()[1] for words in told}
    assert names == set(cli.list_commands(context))
    for words in told:
        name, *rest = words.split()[1:]
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            subcommands = set(rest[0].replace("\\|", "|").split("|"))
            assert subcommands == set(command.list_commands(context)), name


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_recipe_is_the_example_that_a_test_loads_and_plans() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown == (ROOT / "docs" / "examples" / "minimal.yaml").read_text(encoding="utf-8")


def test_the_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", README) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link).exists()] == []
