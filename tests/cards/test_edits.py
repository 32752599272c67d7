"""What a person edits on the Hub survives the next release, or is shown as a conflict; nothing is lost unsaid."""

from __future__ import annotations

import re

import card_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.cards.edits import keep_edits
from hubkit.cards.metadata import read_block
from hubkit.cards.render import MODEL_CARD, render_card
from hubkit.cards.template_context import build_context

FRONT = "---\nlicense: mit\ntags:\n- a\n- b\n---\n\n"


def region(name: str, text: str) -> str:
    return f"<!-- hubkit:begin {name} -->\n{text}\n\n<!-- hubkit:end {name} -->"


def card(*parts: str, front: str = FRONT) -> str:
    return front + "\n\n".join(parts) + "\n"


BEFORE = card(region("head", "# One"), region("scores", "| 1 |"), region("end", "Bye."))
NEW = card(region("head", "# One"), region("scores", "| 2 |"), region("end", "Bye."))


def test_a_card_that_nobody_edited_is_written_anew() -> None:
    assert keep_edits(None, None, NEW).text == NEW
    for now in (BEFORE, BEFORE.replace("\n", "\r\n"), BEFORE.strip()):
        made = keep_edits(BEFORE, now, NEW)
        assert (made.text, made.kept, made.conflicts) == (NEW, (), ())


def test_text_outside_of_the_regions_stays_where_it_is() -> None:
    now = BEFORE.replace("<!-- hubkit:begin scores -->", "## Mine\n\nIt is fun.\n\n<!-- hubkit:begin scores -->")
    now = now.replace("---\n\n<", "---\n\n![logo](logo.png)\n\n<") + "\nLast word.\n"
    made = keep_edits(BEFORE, now, NEW)
    assert made.conflicts == () and made.kept == ("your own text",)
    assert made.text == card(
        "![logo](logo.png)", region("head", "# One"), "## Mine\n\nIt is fun.", region("scores", "| 2 |"),
        region("end", "Bye."), "Last word.",
    )  # fmt: skip
    assert keep_edits(NEW, made.text, NEW).text == made.text, "and stays in the release after"


def test_a_region_that_only_the_person_changed_is_theirs() -> None:
    now = BEFORE.replace("Bye.", "So long.")
    made = keep_edits(BEFORE, now, NEW)
    assert made.conflicts == () and made.kept == ("`end`",)
    assert "So long." in made.text and "| 2 |" in made.text and "Bye." not in made.text


def test_a_region_that_both_changed_is_a_conflict_that_shows_the_edit() -> None:
    (conflict,) = keep_edits(BEFORE, BEFORE.replace("| 1 |", "| 9 |"), NEW).conflicts
    assert conflict.where == "`scores`" and conflict.edit == ("-| 1 |", "+| 9 |")
    same = keep_edits(BEFORE, BEFORE.replace("| 1 |", "| 2 |"), NEW)
    assert same.conflicts == () and same.text == NEW


def test_own_text_inside_a_region_is_kept_when_the_region_is_written_anew() -> None:
    note = "<!-- mine -->\nMeasured on a Sunday.\n<!-- /mine -->"
    now = BEFORE.replace("| 1 |", f"| 1 |\n\n{note}")
    made = keep_edits(BEFORE, now, NEW)
    assert made.conflicts == () and region("scores", f"| 2 |\n\n{note}") in made.text
    both = keep_edits(BEFORE, now.replace("| 1 |", "| 9 |"), NEW)
    assert [item.where for item in both.conflicts] == ["`scores`"] and note in both.text


def test_a_region_taken_over_for_good_is_not_written_again() -> None:
    now = BEFORE.replace("hubkit:begin scores", "mine scores").replace("hubkit:end scores", "/mine")
    made = keep_edits(BEFORE, now, NEW)
    assert made.conflicts == () and "| 1 |" in made.text and "| 2 |" not in made.text
    assert made.text.index("# One") < made.text.index("| 1 |") < made.text.index("Bye.")


def test_a_removed_region_stays_away_until_it_changes() -> None:
    now = BEFORE.replace(region("end", "Bye."), "")
    assert "Bye." not in keep_edits(BEFORE, now, NEW).text
    changed = keep_edits(BEFORE, now, NEW.replace("Bye.", "Good bye."))
    assert [item.where for item in changed.conflicts] == ["`end`"]


def test_a_region_that_comes_or_goes() -> None:
    more = NEW.replace(region("end", "Bye."), region("erratum", "Oh.") + "\n\n" + region("end", "Bye."))
    assert region("erratum", "Oh.") in keep_edits(BEFORE, BEFORE + "\nx\n", more).text
    assert "Oh." not in keep_edits(more, more + "\nx\n", NEW).text
    edited = keep_edits(more, more.replace("Oh.", "Oh no."), NEW)
    assert ["removed from the template" in item.where for item in edited.conflicts] == [True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("<!-- hubkit:end scores -->", ""),
        lambda text: text.replace("<!-- hubkit:begin scores -->", ""),
        lambda text: text + "\n<!-- hubkit:begin scores -->\nx\n<!-- hubkit:end scores -->\n",
        lambda text: text.replace("# One", "# One\n\n```\nnever closed"),
        lambda text: re.sub("<!-- .*? -->", "", text) + "mine",
        lambda text: text.split("---\n\n")[0] + "---\n\n# Another card\n",
        lambda text: text.replace("license: mit", "license: [mit"),
    ],
)
def test_damaged_marks_are_a_conflict(damage: object) -> None:
    made = keep_edits(BEFORE, damage(BEFORE), NEW)  # type: ignore[operator]
    assert made.conflicts and all(item.edit for item in made.conflicts)


def test_a_mark_inside_a_fenced_block_is_text() -> None:
    block = "```text\n<!-- hubkit:end head -->\n<!-- mine -->\n```"
    before, new = BEFORE.replace("# One", block), NEW.replace("# One", block)
    made = keep_edits(before, before + "\nMine.\n", new)
    assert made.conflicts == () and made.text == new + "\nMine.\n"


def test_a_card_of_no_release_is_never_taken_for_ours() -> None:
    assert keep_edits(None, "---\nlicense: mit\n---\n", NEW).text == NEW
    assert keep_edits(None, "---\nlicense: mit\nthumbnail: x\n---\n", NEW).kept == ("`thumbnail`",)
    for now in ("# Mine\n", "---\nlicense: apache-2.0\n---\n", BEFORE.replace("mit", "gpl")):
        assert keep_edits(None, now, NEW).conflicts, now


def test_metadata_is_merged_key_by_key() -> None:
    now = BEFORE.replace("- b\n", "- c\n").replace("license: mit", "license: mit\nthumbnail: https://x.example/y.png")
    made = keep_edits(BEFORE, now, NEW.replace("- b\n", "- b\n- d\n"))
    assert made.conflicts == () and sorted(made.kept) == ["`tags`", "`thumbnail`"]
    assert read_block(made.text) == {
        "license": "mit", "tags": ["a", "d", "c"], "thumbnail": "https://x.example/y.png",
    }  # fmt: skip
    (conflict,) = keep_edits(
        BEFORE, BEFORE.replace("license: mit", "license: gpl"), NEW.replace("license: mit", "license: apache-2.0")
    ).conflicts
    assert "license" in conflict.where
    kept = keep_edits(BEFORE, BEFORE.replace("license: mit", "license: gpl"), NEW)
    assert kept.conflicts == () and read_block(kept.text) == {"license": "gpl", "tags": ["a", "b"]}


_LINE = st.text(alphabet=st.sampled_from("ab#*-| `~<!>\u2028\x85é"), max_size=12)
_TEXT = st.lists(_LINE, min_size=1, max_size=4).map("\n".join).map(lambda text: text.strip("\n"))
_NAMES = ("head", "scores", "end")


def _fits(text: str) -> bool:
    return bool(text.strip()) and "```" not in text and "~~~" not in text


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[_TEXT.filter(_fits)] * 3),
    st.tuples(*[_TEXT.filter(_fits)] * 3),
    st.tuples(*[st.none() | _TEXT.filter(_fits)] * 3),
    st.tuples(*[st.none() | _TEXT.filter(_fits)] * 4),
)
def test_no_edit_is_lost_without_a_word(
    was: tuple[str, ...], ours: tuple[str, ...], theirs: tuple[str | None, ...], own: tuple[str | None, ...]
) -> None:
    """Whatever was written on the Hub stands in the merged card, or a conflict names the region where it stood."""
    before, new = (card(*(region(*item) for item in zip(_NAMES, texts, strict=True))) for texts in (was, ours))
    parts = [own[0] or ""]
    for name, text, edit, more in zip(_NAMES, was, theirs, own[1:], strict=True):
        parts += [region(name, edit if edit is not None else text), more or ""]
    now = card(*(part for part in parts if part))
    made = keep_edits(before, now, new)
    conflicts = {item.where for item in made.conflicts}
    for name, text, mine, edit in zip(_NAMES, was, ours, theirs, strict=True):
        edited = edit is not None and edit.strip("\n") != text.strip("\n")
        if edited and f"`{name}`" not in conflicts:
            assert (edit or "").strip("\n") in made.text
        if not edited or f"`{name}`" in conflicts:
            assert region(name, mine.strip("\n")) in made.text
    for text in own:
        assert text is None or text.strip("\n") in made.text
    if not any(own) and not any(theirs):
        assert made.text == new and made.kept == ()
    again = keep_edits(new, made.text, new)
    assert again.text == made.text and again.conflicts == (), "the next release of the same words changes nothing"


def test_a_real_card_is_made_of_regions_and_takes_an_edit() -> None:
    before = render_card(build_context(samples.recipe(), "main", samples.evidence(repaired=126)), MODEL_CARD).text
    new = render_card(build_context(samples.recipe(), "main", samples.evidence()), MODEL_CARD).text
    names = re.findall(r"<!-- hubkit:begin (\S+) -->", new)
    assert names == re.findall(r"<!-- hubkit:end (\S+) -->", new) and len(names) > 7
    note = "## Thanks\n\nTo everybody who helped."
    now = before.replace("<!-- hubkit:begin limitations -->", f"{note}\n\n<!-- hubkit:begin limitations -->")
    made = keep_edits(before, now, new)
    assert made.conflicts == () and made.text == new.replace(
        "<!-- hubkit:begin limitations -->", f"{note}\n\n<!-- hubkit:begin limitations -->"
    )


@pytest.mark.parametrize("value", ["!!int x", "!!timestamp x", "[1"])
def test_metadata_that_cannot_be_read_is_a_conflict(value: str) -> None:
    made = keep_edits(BEFORE, BEFORE.replace("license: mit", f"license: mit\nodd: {value}"), NEW)
    assert [item.where for item in made.conflicts] == ["the metadata, which is not valid YAML"] and made.text == NEW


def test_a_region_that_is_claimed_and_edited_in_its_place_too_is_a_conflict() -> None:
    claimed = BEFORE.replace(
        region("end", "Bye."), "<!-- mine end -->\nMine.\n<!-- /mine -->\n\n" + region("end", "So long.")
    )
    (conflict,) = keep_edits(BEFORE, claimed, NEW).conflicts
    assert conflict.where.startswith("section `end`: claimed") and "+So long." in conflict.edit
