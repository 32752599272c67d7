"""The README stays true: its tree names every module, its commands exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from hubkit.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _tree() -> Iterator[Path]:
    """The paths that the tree names; a line's indentation says below which folder its names stand."""
    (block,) = re.findall(r"```\n(Makefile .*?)```", README, re.DOTALL)
    above: list[tuple[int, Path]] = []
    for line in block.splitlines():
        depth = len(line) - len(line.lstrip())
        above = [item for item in above if item[0] < depth]
        parent = above[-1][1] if above else ROOT
        for name in (
            re.findall(r"(?:^|(?<=\s))[\w./-]+(?:/|\.py|\.toml|\.txt|\.jinja)(?=[\s,:]|$)", line) or line.split()[:1]
        ):
            path = parent / name
            if name.endswith("/") and path.is_dir() and not line.strip().startswith("card_templates"):
                above = [*[item for item in above if item[0] < depth], (depth, path)]
                parent = path
            yield path


def test_the_tree_names_every_module_and_nothing_else() -> None:
    named = {path for path in _tree() if path.suffix == ".py"}
    missing = {path for path in named if not path.exists()}
    assert not missing
    there = {
        path
        for folder in ("toolkit/hubkit", "stages/hubkit_stages")
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("__")
    }
    unnamed = sorted(str(path.relative_to(ROOT)) for path in there - named)
    assert not unnamed, "name these in the README's tree"


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
