"""`hubkit init`: a built-in recipe under another name, with every comment, whatever the name looks like in YAML."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from hubkit.cli.init import init
from hubkit.core.names import repo_id_problem
from hubkit.recipe.loading import load_recipe, parse_recipe
from hubkit.recipe.new_recipe import renamed, space_repo
from hubkit_stages.recipes import dpopenhermes_7b, tiny

NASTY = (
    "null", "true", "on", "y", "No", "1e5", "1.0", "007", "0x1F", "0o7", "0b1", "1_000", "12", "___", "2026-11-28",
    "a", "x.y", "A-1", "9" * 96, "a" * 96, "a" + ".b" * 47,
)  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("source", [tiny.RECIPE, dpopenhermes_7b.RECIPE])
def test_any_repo_name_is_read_back_and_nothing_else_changes(name: str, source: Path) -> None:
    repo = f"{name[:40].rstrip('.')}/{name}"
    assert repo_id_problem(repo) is None
    made, before = parse_recipe(renamed(source.read_text(), repo)), load_recipe(source)
    assert made.space is not None and before.space is not None
    assert (made.repo, made.card.title, made.space.title) == (repo, name, name)
    assert made.space.repo == space_repo(repo) and repo_id_problem(made.space.repo) is None
    update = {
        "repo": before.repo,
        "card": made.card.model_copy(update={"title": before.card.title}),
        "space": made.space.model_copy(update={"repo": before.space.repo, "title": before.space.title}),
    }
    assert made.model_copy(update=update) == before


@pytest.mark.parametrize("source", [tiny.RECIPE, dpopenhermes_7b.RECIPE])
def test_every_line_but_the_names_stays_as_it_was(source: Path) -> None:
    before, after = source.read_text().splitlines(), renamed(source.read_text(), "me/my-model").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new for _, new in changed] == [
        "repo: me/my-model", "  title: my-model", "  repo: me/my-model-space", "  title: my-model",
    ]  # fmt: skip


def test_a_name_that_looks_like_a_number_is_quoted() -> None:
    text = renamed(tiny.RECIPE.read_text(), "me/1e5")
    assert '  title: "1e5"\n' in text and "\nrepo: me/1e5\n" in text


def test_a_recipe_without_a_space_gets_none() -> None:
    text = tiny.RECIPE.read_text()
    text = text[: text.index("\nspace:")] + "\n"
    assert parse_recipe(renamed(text, "me/my-model")).space is None


def test_a_space_beside_a_long_name_is_shortened() -> None:
    assert space_repo("me/my-model") == "me/my-model-space"
    assert space_repo(f"me/{'a' * 96}") == f"me/{'a' * 90}-space"
    assert space_repo(f"me/{'a' * 89}-{'b' * 6}") == f"me/{'a' * 89}-space"


def test_init_writes_the_recipe_its_schema_and_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(init, ["me/my-model"], catch_exceptions=False)
    assert done.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hubkit.schema.json", "hubkit.yaml", "tasks"]
    assert (tmp_path / "tasks" / "tiny_facts.yaml").read_text() == (
        tiny.RECIPE.parent / "tasks" / "tiny_facts.yaml"
    ).read_text()
    first, *rest = (tmp_path / "hubkit.yaml").read_text().splitlines()
    assert first == "# yaml-language-server: $schema=hubkit.schema.json"
    assert "\n".join([*rest, ""]) == renamed(tiny.RECIPE.read_text(), "me/my-model")


def test_init_without_a_name_copies_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(init, ["--from", "dpopenhermes-7b"], catch_exceptions=False)
    assert (tmp_path / "hubkit.yaml").read_text().endswith(dpopenhermes_7b.RECIPE.read_text())


@pytest.mark.parametrize("there", ["hubkit.yaml", "tasks/mine.yaml"])
def test_init_overwrites_nothing(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    done = CliRunner().invoke(init, ["me/my-model"])
    assert done.exit_code != 0 and "exists already; nothing was written" in str(done.exception)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [there]


def test_the_name_of_a_recipe_is_no_repo_and_the_option_for_it_is_named() -> None:
    assert "pass --from tiny" in str(CliRunner().invoke(init, ["tiny"]).exception)
    assert "namespace/name" in str(CliRunner().invoke(init, ["other"]).exception)
