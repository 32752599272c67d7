"""The words on a card: a recipe's text shows as itself and breaks nothing, and a template prints only what it may."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from hostile_words import ESCAPES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError, TemplateAssertionError
from markdown_it import MarkdownIt
from markdown_samples import body_of, inlines, shown_text

from hubkit.cards.escape import clean, code, md, one_line, python, sentence, shell
from hubkit.cards.evidence import Evidence
from hubkit.cards.measured import FORMATS, CardError, Measured, wrap
from hubkit.cards.metadata import read_block
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, TEMPLATES, Rendered, render_card
from hubkit.cards.template_context import build_context
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.core.errors import RefusedError
from hubkit.recipe.models import Recipe

PARSER = MarkdownIt("commonmark").enable("table")


def _card(variant: str = "main", which: str = MODEL_CARD, *, recipe: Recipe | None = None, **facts: Any) -> Rendered:
    return render_card(build_context(recipe or samples.recipe(), variant, samples.evidence(**facts)), which)


def _problems(card: Rendered, evidence: Evidence) -> list[str]:
    numbers = [number.to_json() for number in card.numbers]
    return list(untraced(card.text, numbers, evidence.get))


# --- the words of the recipe -----------------------------------------------------------------------------------------

_NASTY = st.one_of(
    st.text(min_size=1, max_size=120),
    st.text(alphabet="-`|#*_[]<>{}!~\\&$%\n\t :'\"1.)(", min_size=1, max_size=60),
    st.sampled_from(
        [
            "\n---\n",
            "x\n---\nlicense: evil\n---\n",
            "```\n# out\n```",
            "~~~",
            "a | b | c",
            "a\\|b",
            "| --- |",
            "{{ cycler.__init__.__globals__.os.popen('id') }}",
            "{% for x in range(10**9) %}{% endfor %}",
            "<script>alert(1)</script>",
            "<!-- x",
            "</details>",
            "[x](javascript:alert(1))",
            "![x](http://x/y.png)",
            "<|im_end|>",
            "1. one",
            "- one",
            "+ one",
            "    indented",
            "===",
            "\x00n0\x00",
            "\ud800",
            "\u202e",
            "\u2028x",
            "\x85x",
            "\x85",
            "\u2028",
            "!!python/object:os.system",
            "on",
            "null",
            "*anchor",
            "&anchor",
            "%TAG",
            "@x",
            "'",
            '"',
        ]
    ),
)
_WORDS = _NASTY.filter(lambda text: bool(one_line(text)))
_TAG = _WORDS.filter(
    lambda text: "\ud800" not in text
)  # metadata is read back exactly; a recipe's reader refuses it, too
_PARAGRAPH = _WORDS.filter(lambda text: len(re.split(r"\n\s*\n", clean(text).strip())) == 1)


def _blocks(text: str) -> list[tuple[str, str]]:
    body = body_of(text)
    return [(token.type, token.tag) for token in PARSER.parse(body) if token.type != "inline"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(title=_WORDS, summary=_PARAGRAPH, limitations=_PARAGRAPH, author=_WORDS, tag=_TAG, tracking=_WORDS)
@pytest.mark.fault("S8")
def test_any_words_of_a_recipe_survive_unharmed(
    title: str, summary: str, limitations: str, author: str, tag: str, tracking: str
) -> None:
    recipe = samples.recipe(
        title=title,
        summary=summary,
        limitations=limitations,
        authors=(author,),
        tags=(tag,),
        tracking=tracking,
        language=("en", "de"),
    )
    evidence = samples.evidence()
    for which in (MODEL_CARD, ADAPTER_CARD):
        card = render_card(build_context(recipe, "main", evidence), which)
        assert read_block(card.text) == card.metadata
        assert card.metadata["tags"][0] == tag and card.metadata["license"] == "apache-2.0"
        assert set(card.metadata) == set(_card(which=which).metadata)
        assert validate(card.text) == [] and _problems(card, evidence) == []
        assert _blocks(card.text) == _blocks(_card(which=which, recipe=_PLAIN).text)
        shown = list(inlines(card.text))
        expected = one_line(title) + (": the adapter" if which == ADAPTER_CARD else "")
        assert shown[which == MODEL_CARD] == expected, "below the header image, whose words begin so, too"
        if which == MODEL_CARD:
            assert ", branch main: stop rate " in shown[0]
            assert shown[3] == one_line(summary) and one_line(limitations) in shown
            assert f" · by {one_line(author)}" in shown[2]
        card.text.encode()


@pytest.mark.fault("S8")
def test_half_a_surrogate_pair_in_the_metadata_is_refused() -> None:
    """No file can hold it, and a recipe's reader refuses it with its line before."""
    with pytest.raises(RefusedError, match="does not survive a YAML round trip"):
        render_card(build_context(samples.recipe(tags=("x\ud800",)), "main", samples.evidence()), MODEL_CARD)


_PLAIN = samples.recipe(
    title="x", summary="x", limitations="x", authors=("x",), tags=("x",), tracking="x", language=("en",)
)


@settings(max_examples=40, deadline=None)
@given(_WORDS, st.sampled_from(["what", "finding", "prompt", "licence", "dropped"]))
def test_words_from_result_files_do_not_break_a_table_or_a_block(text: str, where: str) -> None:
    evidence = samples.evidence()
    files = json.loads(json.dumps(evidence.files))
    recipe, question = samples.recipe(), "x"
    data = files["data"]["data.json"]
    if where == "what":
        variants = {**recipe.variants, "main": recipe.variants["main"].model_copy(update={"title": text})}
        recipe = recipe.model_copy(update={"variants": variants})
    elif where == "finding":
        data["findings"][0]["message"] = text
    elif where == "licence":
        data["sets"]["repair"]["sources"][0]["licence"] = text
    elif where == "dropped":
        data["sets"]["repair"]["sources"][0]["dropped"] = {text: 1}
    else:
        question = text
    card = render_card(build_context(recipe, "main", Evidence(files, evidence.template, {}, question)))
    plain = render_card(build_context(samples.recipe(), "main", samples.evidence()))
    assert _blocks(card.text) == _blocks(plain.text)
    assert validate(card.text) == []
    for token in PARSER.parse(card.text):
        if token.type == "fence" and token.info == "python":
            ast.parse(token.content)


@given(_WORDS)
def test_each_escape_shows_exactly_its_text(text: str) -> None:
    wanted = one_line(text)
    for escaped in (md(text), sentence(text)):
        (inline,) = [token for token in PARSER.parse(escaped) if token.type == "inline"]
        assert shown_text(inline) == wanted
    (inline,) = [token for token in PARSER.parse(f"x {code(text)}") if token.type == "inline"]
    assert (inline.children or [])[1].content == wanted
    assert ast.literal_eval(python(text)) == text and "\n" not in python(text)


@pytest.mark.fault("S13")
@pytest.mark.parametrize("word", ESCAPES)
def test_no_escape_passes_on_what_steers(word: str) -> None:
    for escaped in (clean(word), one_line(word), md(word), code(word), sentence(word), python(word), shell(word)):
        assert not set(escaped) & {*map(chr, range(9)), *"\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u2069\ud800"}


@given(st.text(st.sampled_from("<|im_end|> `a-1.\\*|\n"), max_size=40))
def test_control_tokens_in_a_sentence_are_code_and_all_else_is_text(text: str) -> None:
    text = f"x {text} <|im_end|>"
    (inline,) = [token for token in PARSER.parse(sentence(text)) if token.type == "inline"]
    assert shown_text(inline) == one_line(text)
    assert (inline.children or [])[-1].type == "code_inline"


# --- what a template may not do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ rate }}", CardError),
        ("{{ count + count }}", TypeError),
        ("{{ title }}", CardError),
        ("{{ yes }}", CardError),
        ("{{ 'a' ~ rate }}", CardError),
        ("{{ rate._value }}", SecurityError),
        ("{{ rate.step | md }}", SecurityError),
        ("{{ title.__class__ | md }}", SecurityError),
        ("{{ title | measured('count') }}", CardError),
        ("{{ rate | measured('grand') }}", CardError),
        ("{{ rate | pprint }}", TemplateAssertionError),
        ("{{ nothing }}", UndefinedError),
        ("{{ nothing | md }}", UndefinedError),
        ("{{ cycler }}", UndefinedError),
        ("{% if nothing %}x{% endif %}", UndefinedError),
    ],
)
@pytest.mark.fault("S9")
def test_a_template_cannot_print_what_was_not_measured_or_escaped(
    tmp_path: Path, template: str, error: type[Exception]
) -> None:
    (tmp_path / TEMPLATES[MODEL_CARD]).write_text(template)
    metadata = build_context(_PLAIN, "main", samples.evidence())["metadata"]
    context = {
        "rate": wrap(0.5, "s", "f"), "count": wrap(3, "s", "f"), "title": "x", "yes": True, "metadata": metadata,
    }  # fmt: skip
    with pytest.raises(error):
        render_card(context, templates=tmp_path)


def test_a_measured_number_hides_its_value_from_templates() -> None:
    number = Measured(0.123, "stopping[main]", "stopping.json", "/forms/merged/rate")
    assert "0.123" not in repr(number)
    with pytest.raises(CardError):
        str(number)
    with pytest.raises(CardError):
        f"{number:.2f}"


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("percent", 0.9765625, "97.7 %"),
        ("percent", 1.0, "100 %"),
        ("percent", 0.98, "98.0 %"),
        ("percent", 0, "0 %"),
        ("percent", 0.0005, "0.1 %"),
        ("score", 0.44205, "0.4421"),
        ("count", 7000, "7,000"),
        ("count", 4321.9, "4,322"),
        ("token_rate", 4321.9, "4,322 tokens/s"),
        ("loss", 0.69315, "0.693"),
        ("plain", 5e-05, "5e-05"),
        ("plain", 16, "16"),
        ("plain", 2.0, "2"),
        ("short", 0.6097560975609756, "0.61"),
        ("duration", 41.7, "42 s"),
        ("duration", 36720.0, "10 h 12 min"),
        ("duration", 600, "10 min 00 s"),
        ("size", 14_480_000_000, "14.5 GB"),
        ("size", 12, "12 B"),
        ("parameters", 7_241_732_096, "7.24 B"),
        ("parameters", 361_000, "361,000"),
    ],
)
def test_formats(form: str, value: float, text: str) -> None:
    assert FORMATS[form](value) == text
