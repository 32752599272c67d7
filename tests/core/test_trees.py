"""Trees compared by what a Hub shows of them."""

from hubkit.core.files import Digests, Manifest
from hubkit.core.trees import Entry, compare, short_list, tree_digest, tree_of


def test_what_was_added_removed_and_changed() -> None:
    before = {"a": Entry(1, git="g1"), "b": Entry(2, sha256="s2"), "c": Entry(3, git="g3")}
    after = {"a": Entry(1, git="g1"), "b": Entry(2, sha256="other"), "d": Entry(4, git="g4")}
    found = compare(before, after)
    assert [change.path for change in found.changes] == ["b", "c", "d"]
    assert [change.path for change in found.added] == ["d"]
    assert [change.path for change in found.removed] == ["c"]
    assert [change.path for change in found.changed] == ["b"]
    assert found.changed[0].sentence == "b has other content (2 → 2 bytes)"
    assert "4 bytes" in found.added[0].sentence and "3 bytes" in found.removed[0].sentence
    assert not compare(before, before)


def test_a_change_as_plain_values() -> None:
    found = compare({"a": Entry(1, git="x"), "b": Entry(2, git="y")}, {"b": Entry(3, git="z"), "c": Entry(4, git="w")})
    assert [change.to_json() for change in found.changes] == [
        {"path": "a", "kind": "removed", "before": 1, "after": None},
        {"path": "b", "kind": "changed", "before": 2, "after": 3},
        {"path": "c", "kind": "added", "before": None, "after": 4},
    ]


def test_equal_trees_have_equal_digests() -> None:
    tree = {"a": Entry(1, git="x"), "b": Entry(2, sha256="y")}
    assert tree_digest(tree) == tree_digest(dict(reversed(tree.items())))
    others = [{"a": Entry(1, git="x")}, {**tree, "a": Entry(1, git="z")}, {"c": tree["a"], "b": tree["b"]}]
    assert len({tree_digest(tree), *map(tree_digest, others)}) == 4


def test_a_manifest_equals_either_digest_that_a_hub_shows() -> None:
    promised = tree_of(Manifest({"w": Digests(5, "sha", "git")}))
    assert not compare(promised, {"w": Entry(5, sha256="sha")})
    assert not compare(promised, {"w": Entry(5, git="git")})
    assert compare(promised, {"w": Entry(6, sha256="sha")})
    assert compare(promised, {"w": Entry(5, git="other")})


def test_entries_without_a_common_digest_count_as_different() -> None:
    assert compare({"w": Entry(5, sha256="sha")}, {"w": Entry(5, git="git")})
    assert compare({"w": Entry(5)}, {"w": Entry(5)})


def test_a_long_list_is_cut() -> None:
    assert short_list(["a", "b"]) == "a, b"
    assert short_list([*"abcdefgh"]) == "a, b, c, d, e and 3 more"
