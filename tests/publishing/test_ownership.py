"""Whose files on a branch are: the one decision, over random trees, and through each of its five callers."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from hubkit.core.trees import Entry, Tree, compare
from hubkit.publishing.ownership import Ownership, decide, holds_release

NAMES = st.sampled_from(["adapter", "a", "b.json", "README.md", ".gitattributes", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CONTENT = st.integers(0, 3).map(lambda number: Entry(number, git=str(number) * 40))


def folders(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:end]) for end in range(1, len(parts))}


def is_a_tree(paths: Mapping[str, object]) -> bool:
    """Whether git can hold these files together: no file is a folder of another."""
    return not any(folders(path) & paths.keys() for path in paths)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree that git can hold."""
    tree: dict[str, Entry] = {}
    for path, entry in draw(st.dictionaries(PATHS, CONTENT, max_size=8)).items():
        if is_a_tree({**tree, path: entry}):
            tree[path] = entry
    return tree


@st.composite
def situations(draw: st.DrawFn) -> tuple[Tree, Tree, frozenset[str]]:
    """A branch's tree, the files of a release, and what the branch's manifest lists: some of it, and what is gone."""
    tree, wanted = draw(trees()), draw(trees())
    listed = draw(st.sets(st.sampled_from(sorted(tree)))) if tree else set()
    return tree, wanted, frozenset(listed | draw(st.sets(PATHS, max_size=2)))


@given(situations())
def test_the_outcome_is_a_tree_that_holds_the_release(situation: tuple[Tree, Tree, frozenset[str]]) -> None:
    tree, wanted, ours = situation
    decision = decide(tree, wanted, ours)
    outcome = decision.outcome(tree, wanted)
    assert is_a_tree(outcome)
    assert holds_release(outcome, wanted, decision.deletions(wanted)) and decision.reached(outcome, wanted)
    assert outcome.keys() <= tree.keys() | wanted.keys()


@given(situations())
def test_no_file_of_other_people_goes_unseen(situation: tuple[Tree, Tree, frozenset[str]]) -> None:
    """Each is kept with its content, or is reported as replaced, and then something of the release is in its place."""
    tree, wanted, ours = situation
    decision = decide(tree, wanted, ours)
    outcome = decision.outcome(tree, wanted)
    foreign = tree.keys() - ours
    for path in foreign:
        stays = path in outcome and outcome[path].same(tree[path])
        assert stays != (path in decision.replaced) or path == ".gitattributes"
    for path in decision.replaced:
        assert path in foreign
        in_place = path in wanted or folders(path) & wanted.keys() or any(path in folders(item) for item in wanted)
        assert in_place, "a file that is in nobody's way stays"
    assert set(decision.kept) == foreign - wanted.keys() - set(decision.replaced) - {".gitattributes"}


@given(situations())
def test_nothing_of_an_earlier_release_is_left(situation: tuple[Tree, Tree, frozenset[str]]) -> None:
    tree, wanted, ours = situation
    decision = decide(tree, wanted, ours)
    assert set(decision.removed) == (tree.keys() & ours) - wanted.keys()
    assert decision.outcome(tree, wanted).keys().isdisjoint(decision.removed)


@given(situations())
def test_the_next_release_of_the_same_files_has_nothing_to_do(situation: tuple[Tree, Tree, frozenset[str]]) -> None:
    tree, wanted, ours = situation
    first = decide(tree, wanted, ours)
    outcome = first.outcome(tree, wanted)
    again = decide(outcome, wanted, wanted.keys())
    assert again == Ownership(kept=first.kept)
    assert not compare(outcome, again.outcome(outcome, wanted))


@given(situations())
def test_exactly_the_release_is_the_release(situation: tuple[Tree, Tree, frozenset[str]]) -> None:
    tree, wanted, ours = situation
    decision = decide(tree, wanted, ours, exact=True)
    assert decision.outcome(tree, wanted) == wanted and not decision.kept and not decision.replaced


@given(situations())
def test_what_is_foreseen_before_the_content_is_known_is_what_happens(
    situation: tuple[Tree, Tree, frozenset[str]],
) -> None:
    """The check before training knows names only: it may foresee more, and nothing else."""
    tree, wanted, ours = situation
    foreseen, decided = decide(tree, dict.fromkeys(wanted), ours), decide(tree, wanted, ours)
    assert set(decided.replaced) <= set(foreseen.replaced) and foreseen.kept == decided.kept
    assert all(path in wanted for path in set(foreseen.replaced) - set(decided.replaced))


def test_a_file_where_a_folder_must_be_and_a_folder_where_a_file_must_be() -> None:
    entry, other = Entry(1, git="1" * 40), Entry(2, git="2" * 40)
    tree = {"adapter": other, "config.json/notes.txt": other, "THANKS.md": other, "old.bin": other, "same.txt": entry}
    wanted = {"adapter/x.json": entry, "config.json": entry, "same.txt": entry}
    decision = decide(tree, wanted, {"old.bin", "gone.bin"})
    assert decision == Ownership(
        removed=("old.bin",), replaced=("adapter", "config.json/notes.txt"), kept=("THANKS.md",)
    )
    assert decision.deletions(wanted) == {"old.bin", "adapter", "config.json/notes.txt"}
    replaced, kept = decision.sentences("The branch 'main' of me/model")
    assert "are overwritten: adapter, config.json/notes.txt." in replaced and "is kept: THANKS.md." in kept
