"""A recipe's own templates, within the sandbox; and the cards of Spaces and of derived data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
import yaml
from huggingface_hub import DatasetCard
from markdown_samples import inlines

from hubkit.cards.evidence import Evidence
from hubkit.cards.measured import CardError
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, Rendered, own_templates, render_card
from hubkit.cards.space_and_dataset_cards import SpacePage, dataset_card, short_description, space_card
from hubkit.cards.template_context import build_context
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.core.errors import RefusedError, UsageError
from hubkit.core.space_metadata import space_problems
from hubkit.publishing.spaces.building import Facts, Revision
from hubkit.recipe.loading import parse_recipe
from hubkit.server.repos import metadata as hub_metadata


def _card(own: Path | None, which: str = MODEL_CARD) -> Rendered:
    return render_card(build_context(samples.recipe(), "main", samples.evidence()), which, own=own)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "card.jinja"
    path.write_text(text)
    return path


def test_a_file_overrides_a_block_and_keeps_the_rest(tmp_path: Path) -> None:
    own = _file(
        tmp_path,
        '{% extends "hubkit/model.md.jinja" %}'
        "{% block more %}## Thanks\n\nTo {{ title | md }}: {{ here.average | measured('score') }}.{% endblock %}"
        "{% block limitations %}{{ super() }}\n- And one more.\n{% endblock %}",
    )
    made, plain = _card(own), _card(None)
    assert "## Thanks\n\nTo Tiny Hermes DPO: 0.8320." in made.text and "- And one more." in made.text
    assert "<!-- hubkit:begin more -->" in made.text and "<!-- hubkit:begin more -->" not in plain.text
    assert "It knows a hundred facts" in made.text and validate(made.text) == []
    numbers = [number.to_json() for number in made.numbers]
    evidence = samples.evidence()
    build_context(samples.recipe(), "main", evidence)
    assert list(untraced(made.text, numbers, evidence.get)) == [] and len(numbers) == len(plain.numbers) + 1
    assert _card(own, ADAPTER_CARD).text == _card(None, ADAPTER_CARD).text


def test_a_folder_overrides_parts_and_both_cards(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "limitations.md.jinja").write_text("## Limitations\n\nNone of ours.\n")
    (tmp_path / "adapter.md.jinja").write_text(
        '{% extends "hubkit/adapter.md.jinja" %}{% block training %}{% endblock %}'
    )
    assert "None of ours." in _card(tmp_path).text and "## Training" in _card(tmp_path).text
    assert "## Training" not in _card(tmp_path, ADAPTER_CARD).text


def test_a_template_that_goes_its_own_way_is_one_region(tmp_path: Path) -> None:
    whole = _card(_file(tmp_path, "# {{ title | md }}\n\n<!-- hubkit:begin x -->\nmine\n<!-- hubkit:end x -->\n"))
    assert whole.text.endswith("---\n\n# Tiny Hermes DPO\n\nmine\n") and whole.metadata["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ here.average }}", "was printed without the filter"),
        ("{{ title }}", "a bare str was printed"),
        ("{{ 98.2 }}", "a bare float was printed"),
        ("{{ here.average + here.average }}", "unsupported operand"),
        ("{{ here.average._value | md }}", "unsafe"),
        ("{{ title.__class__.__mro__ | md }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() | md }}", "unsafe"),
        ("{{ lipsum.__globals__ | md }}", "undefined"),
        ("{{ self.__init__ | md }}", "unsafe"),
        ("{{ title.format(title) | md }}{{ '{0.__class__}'.format(here) | md }}", "unsafe"),
        ("{% for x in range(9) %}{% endfor %}", "undefined"),
        ("{% set _ = variants.append(title) %}", "unsafe"),
        ("{% set _ = here.update(average=title) %}", "unsafe"),
        ('{% include "/etc/passwd" %}', "/etc/passwd"),
        ('{% include "../../../../etc/passwd" %}', "etc/passwd"),
        ("{% import 'os' as os %}", "os"),
        ("{{ title | attr('__class__') | md }}", "No filter named"),
        ("{% block x %}", "Unexpected end of template"),
        ("{{ nothing | md }}", "undefined"),
        ("{{ ('Score: ' ~ (here.average | measured('score'))) | md }}", "apply one filter per value"),
        ("{% filter md %}{{ here.average | measured('score') }}{% endfilter %}", "apply one filter per value"),
        ("{{ here.average | measured('score') | cell }}", "apply one filter per value"),
        ("{{ here.average | measured('score') | fenced }}", "apply one filter per value"),
        ("{{ title | fenced | md }}", "apply one filter per value"),
        ("{{ ', '.join([here.average | measured('score')]) | md }}", "apply one filter per value"),
        ("{{ {'x': title ~ (here.average | measured('score'))} | shown }}", "apply one filter per value"),
        ("{{ ('%r' % here.average) | md }}", "was printed without the filter"),
        ("{{ ('' ~ [here.average]) | md }}", "was printed without the filter"),
        ("{{ here.average | md }}", "was printed without the filter"),
        ("{{ 5 | md }}", "given int, not text"),
        ("{{ 5 | shown }}", "given int, not text"),
        ("{{ none | md }}", "given NoneType, not text"),
        ("{{ training | code }}", "given list, not text"),
        ("{{ title | fenced(5) }}", "given int, not text"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " | md }}", "recursion"),
        ("\n\x00n7\x00", "line 2: it holds a NUL character"),
    ],
)
@pytest.mark.fault("S9")
def test_a_recipes_template_gets_no_further_than_ours(tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(UsageError) as told:
        _card(_file(tmp_path, template))
    assert told.value.exit_code == 2 and said in told.value.message and "card.jinja" in told.value.message


def test_a_mistake_of_ours_is_not_called_the_recipes(tmp_path: Path) -> None:
    context = build_context(samples.recipe(), "main", samples.evidence())
    with pytest.raises(CardError):
        (tmp_path / "model.md.jinja").write_text("{{ title }}")
        render_card(context, templates=tmp_path)


def test_the_template_that_the_recipe_names_must_be_there(tmp_path: Path) -> None:
    recipe = samples.recipe(template="mine.jinja")
    with pytest.raises(UsageError, match=r"mine\.jinja"):
        own_templates(recipe, tmp_path)
    (tmp_path / "mine.jinja").write_text("x")
    assert own_templates(recipe, tmp_path) == tmp_path / "mine.jinja"
    assert own_templates(samples.recipe(), tmp_path) is None


# --- licences --------------------------------------------------------------------------------------------------------


def test_the_licence_is_the_bases_unless_the_recipe_names_one() -> None:
    recipe = parse_recipe(samples.RECIPE.replace("license: apache-2.0\n", ""))
    evidence = samples.evidence()
    evidence.files["base"]["base.json"]["licence"] = "cc-by-4.0"
    assert render_card(build_context(recipe, "main", evidence)).metadata["license"] == "cc-by-4.0"
    assert validate(render_card(build_context(recipe, "main", placeholder(recipe))).text) == []
    lacking = samples.evidence()
    lacking.files["base"]["base.json"]["licence"] = None
    with pytest.raises(RefusedError, match="names a license"):
        build_context(recipe, "main", lacking)


def test_the_licence_other_needs_a_name_and_a_link() -> None:
    other = samples.RECIPE.replace("license: apache-2.0", "license: other")
    with pytest.raises(UsageError, match="license_name"):
        parse_recipe(other)
    recipe = parse_recipe(other + "license_name: mine\nlicense_link: https://example.org/license\n")
    card = render_card(build_context(recipe, "main", samples.evidence()))
    assert validate(card.text) == [] and hub_metadata.check(card.text, "model") == ([], [])
    assert card.metadata["license_name"] == "mine"


# --- Spaces and data -------------------------------------------------------------------------------------------------


def _facts(title: str) -> Facts:
    return Facts(
        title, "me/x", "apache-2.0", ("me/base", "b" * 40), "bfloat16", (2, "<|im_end|>"), 64,
        [Revision("main", "c" * 40, title, 127, 128)], ["Hello"],
    )  # fmt: skip


@pytest.mark.parametrize("title", ["Tiny", "x\n---\nsdk: docker\n---\n", "<script>alert(1)</script>", "a | b `c` # d"])
def test_the_card_of_a_space_shows_the_words_as_they_are(title: str) -> None:
    text = space_card(_facts(title))
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["sdk"] == "gradio" and front["title"] == " ".join(title.split())
    assert front["models"] == ["me/x", "me/base"]
    assert hub_metadata.check(text, "space")[0] == []
    shown = list(inlines(text))
    assert shown[0] == " ".join(title.split()) and f"commit {'c' * 40}" in shown[-1]


def test_the_front_matter_of_a_space_tells_what_the_hub_shows_of_it() -> None:
    page = SpacePage(("me/pairs", "me/chats", "me/pairs"), "t4-small", None, picture=True)
    front = yaml.safe_load(space_card(_facts("Tiny Hermes"), page).split("---\n")[1])
    assert front["datasets"] == ["me/pairs", "me/chats"] and front["suggested_hardware"] == "t4-small"
    assert front["thumbnail"] == "https://huggingface.co/me/x/resolve/main/assets/header.png"
    assert front["short_description"] == "Compare the answers of Tiny Hermes" and front["emoji"]
    plain = yaml.safe_load(space_card(_facts("W" * 500)).split("---\n")[1])
    assert "datasets" not in plain and "thumbnail" not in plain and plain["suggested_hardware"] == "cpu-basic"
    assert [*space_problems(front), *space_problems(plain)] == []


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Compare them", "Compare them"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("Compare the answers of a model that has a rather long name, and more", None),
        ("a\nb", "a b"),
    ],
)
def test_a_short_description_ends_after_a_word(text: str, short: str | None) -> None:
    made = short_description(text)
    assert made == (short or "Compare the answers of a model that has a rather long name…") and len(made) <= 60


def test_a_description_that_the_hub_would_refuse_is_refused_in_the_recipe() -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(samples.RECIPE + f"space: {{repo: me/chat, description: {'x' * 61}}}\n")
    assert "it has 61 characters; the Hub takes at most 60" in f"{caught.value} {caught.value.hint}"


def test_the_card_of_the_held_out_prompts() -> None:
    evidence = samples.evidence()
    card = dataset_card(samples.recipe(), evidence)
    assert "128 prompts held out from training in [`me/tiny-dpo`](/me/tiny-dpo)." in card.text
    assert "| `teknium/openhermes` |" in card.text and "orca" not in card.text, "the sources of its own set alone"
    assert DatasetCard(card.text).data["license"] == ["mit"]
    assert hub_metadata.check(card.text, "dataset") == ([], [])
    numbers = [number.to_json() for number in card.numbers]
    assert list(untraced(card.text, numbers, evidence.get)) == [] and len(numbers) == 4
    with pytest.raises(RefusedError, match="held out"):
        dataset_card(samples.recipe(), Evidence({}, ""))


def test_no_template_of_ours_goes_without_a_card() -> None:
    from hubkit.cards.render import TEMPLATES
    from hubkit.core.files import resource_dir

    folder = resource_dir("card_templates")
    assert sorted(TEMPLATES.values()) == sorted(path.name for path in folder.glob("*.jinja"))
    included: set[str] = set()
    for path in folder.rglob("*.jinja"):
        included.update(re.findall(r'include "(.*?)"', path.read_text(encoding="utf-8")))
    assert included == {path.relative_to(folder).as_posix() for path in folder.glob("parts/*.jinja")}


def test_evidence_is_wrapped_once() -> None:
    evidence: Any = samples.evidence()
    assert evidence.wrapped() is evidence.wrapped()
