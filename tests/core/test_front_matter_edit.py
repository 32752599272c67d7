"""One key of a card's front matter is set, and no other character of the card changes."""

import pytest

from hubkit.core.bounded_yaml import YamlError
from hubkit.core.front_matter_edit import read_key, with_key

ADDED = [
    ("---\nlicense: mit\n---\n# x\n", "---\nlicense: mit\nnew_version: me/n\n---\n# x\n"),
    ("---\r\nlicense: mit\r\n---\r\n# x", "---\r\nlicense: mit\r\nnew_version: me/n\r\n---\r\n# x"),
    ("---\n# only a comment\n---\nx", "---\n# only a comment\nnew_version: me/n\n---\nx"),
    ("---\n\n---\nx", "---\nnew_version: me/n\n---\nx"),
    ("---\na: .nan\nb: 2020-01-01\n---\n", "---\na: .nan\nb: 2020-01-01\nnew_version: me/n\n---\n"),
    ("", "---\nnew_version: me/n\n---\n"),
    ("# no front matter\n", "---\nnew_version: me/n\n---\n# no front matter\n"),
    ("\ufeff# x", "\ufeff---\nnew_version: me/n\n---\n# x"),
    ("---\ndatasets:\n- a/b\n---\n---\nx: y\n---\n", "---\ndatasets:\n- a/b\nnew_version: me/n\n---\n---\nx: y\n---\n"),
]
ADDED += [
    ("---\na: |\n  x\n---\n", "---\na: |\n  x\nnew_version: me/n\n---\n"),
    ("---\na: >\n  x\n  y\n---\n", "---\na: >\n  x\n  y\nnew_version: me/n\n---\n"),
    ("---\na: |+\n  x\n\n---\n", "---\na: |+\n  x\n\nnew_version: me/n\n---\n"),
    ("---\n---\n", "---\nnew_version: me/n\n---\n"),
    ("---\r\n---\r\n# x", "---\r\nnew_version: me/n\r\n---\r\n# x"),
    ("---\na: 1\n---\nx\r\ny\n", "---\na: 1\nnew_version: me/n\n---\nx\r\ny\n"),
    ("# x\ny\r\n", "---\nnew_version: me/n\n---\n# x\ny\r\n"),
]
CHANGED = [
    ("---\nnew_version: a/b # why\nlicense: mit\n---\n", "---\nnew_version: me/n # why\nlicense: mit\n---\n"),
    ("---\nnew_version:\nlicense: mit\n---\n", "---\nnew_version: me/n\nlicense: mit\n---\n"),
    ("---\nnew_version: >-\n  a/b\nlicense: mit\n---\n", "---\nnew_version: me/n\nlicense: mit\n---\n"),
    ("---\ne: 😀\n'new_version': \"é/x\"\nq: ü\n---\n", "---\ne: 😀\n'new_version': me/n\nq: ü\n---\n"),
    ("---\nx: {new_version: a/b}\nnew_version: c/d\n---", "---\nx: {new_version: a/b}\nnew_version: me/n\n---"),
]


@pytest.mark.parametrize(("card", "expected"), [*ADDED, *CHANGED])
def test_one_key_is_set_and_the_rest_stays(card: str, expected: str) -> None:
    assert with_key(card, "new_version", "me/n") == expected
    assert with_key(expected, "new_version", "me/n") == expected, "once is enough"
    assert read_key(expected, "new_version") == "me/n"


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("---\n{a: 1}\n---\n", "in braces"),
        ("---\n- a\n---\n", "not a mapping"),
        ("---\nx: [1\n---\n", "did not find"),
        ("---\nx: 1\n", "not closed"),
        ("---\nx: 1\nx: 2\n---\n", "twice"),
        ("--- \nx: 1\n---\n", "does not begin with"),
        ("--- \n---\n", "does not begin with"),
        ("---\nnew_version: &x b/c\na: *x\n---\n", "alias"),
    ],
)
def test_where_nothing_can_be_promised_nothing_is_changed(card: str, problem: str) -> None:
    with pytest.raises(YamlError, match=problem):
        with_key(card, "new_version", "me/n")
