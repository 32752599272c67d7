"""Trees compared by what a Hub shows of them."""

from hubkit.diff import Entry, compare, short_list, tree_of
from hubkit.files import Digests, Manifest


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
