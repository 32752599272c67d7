"""Whatever words a recipe or a result file holds: the cards keep their shape, and their metadata reads back the same.

The judge is a markdown parser. A card with hostile words must parse to the same tree as one with harmless words: the
same headings, tables, lists, fences, HTML, links and pictures, only other text in them.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
import yaml
from hostile_words import ATTACKS, CANARY, PAYLOADS, SIGNS
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hubkit.cards.escape import clean, one_line
from hubkit.cards.evidence import Evidence
from hubkit.cards.metadata import read_block
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, Rendered, render_card
from hubkit.cards.template_context import build_context
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.core.errors import RefusedError
from hubkit.core.names import ref_problem, repo_id_problem
from hubkit.recipe.loading import parse_recipe
from hubkit.recipe.models import Recipe

pytestmark = pytest.mark.fault("S8")
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
CARDS = (MODEL_CARD, ADAPTER_CARD)
WORDS = st.one_of(
    st.sampled_from(ATTACKS),
    st.text(alphabet=SIGNS, max_size=60),
    st.lists(st.sampled_from([*ATTACKS, " ", "\n", "\n\n", "a"]), max_size=4).map("".join),
    st.text(max_size=120),
)
"""Any string, and with some weight what breaks documents."""
SHOWN = WORDS.filter(lambda text: bool(one_line(text)))
"""What shows at all."""
WHOLE = WORDS.filter(lambda text: not re.search("[\ud800-\udfff]", text))
"""Without half a surrogate pair: metadata that holds one is refused, which test_words.py tests."""
CHECKED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

Skeleton = list[tuple[str, ...]]


@functools.lru_cache(maxsize=16)
def parsed(text: str) -> list[Token]:
    """The tokens of the card ``text``, its metadata left out."""
    found = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    assert found
    return PARSER.parse(text[found.end() :])


def skeleton(text: str) -> Skeleton:
    """The parse tree of the card ``text`` without its words: blocks with their markup, HTML, links and pictures."""
    found: Skeleton = []
    for token in parsed(text):
        found += [(token.type, token.tag, token.info if token.type == "fence" else token.markup[:1])]
        if token.type == "html_block":
            found += [("html", tag) for tag in re.findall(r"<!--.*?-->|<[^>]*>?", token.content, re.DOTALL)]
        for child in token.children or []:
            if child.type not in {"text", "softbreak", "text_special", "code_inline"}:
                found += [(child.type, child.tag)]
    return found


def harmless(text: str) -> str:
    """Words that break nothing, in as many paragraphs as ``text`` has, and as many empty."""
    parts = [part for part in re.split(r"\n\s*\n", clean(text)) if one_line(part)]
    return "\n\n".join("x" for _ in parts)


def _inline(token: Token) -> str:
    return "".join(child.content or (" " if child.type == "softbreak" else "") for child in token.children or [])


def shown(text: str) -> list[str]:
    """The text of each heading, paragraph and table cell, as a reader sees it."""
    return [_inline(token) for token in parsed(text) if token.type == "inline"]


def cards(recipe: Recipe, evidence: Evidence, variant: str = "main") -> list[Rendered]:
    context = build_context(recipe, variant, evidence)
    return [render_card(context, which) for which in CARDS]


def sound(card: Rendered, evidence: Evidence, *, language: bool = True) -> None:
    """What holds for every card: metadata that reads back, numbers in place, snippets that are Python, no canary."""
    assert read_block(card.text) == card.metadata
    assert yaml.safe_load(card.text[4:].split("\n---\n", 1)[0]) == card.metadata
    problems = [finding.message for finding in validate(card.text)]
    assert [said for said in problems if language or "language" not in said] == []
    assert list(untraced(card.text, [number.to_json() for number in card.numbers], evidence.get)) == []
    assert CANARY not in card.text
    card.text.encode()
    for token in parsed(card.text):
        if token.type == "fence" and token.info == "python":
            ast.parse(token.content)


@functools.cache
def _expected(recipe: str, variant: str = "main") -> list[Skeleton]:
    parsed = Recipe.model_validate(json.loads(recipe))
    return [skeleton(card.text) for card in cards(parsed, samples.evidence(), variant)]


def _plain(recipe: Recipe) -> str:
    """The recipe as a key of the cache; pydantic's own JSON refuses half a surrogate pair."""
    return json.dumps(recipe.model_dump(mode="json"))


def same_shape(recipe: Recipe, tame: Recipe, made: list[Rendered], variant: str = "main") -> None:
    for card, expected in zip(made, _expected(_plain(tame), variant), strict=True):
        assert skeleton(card.text) == expected


# --- what only a person can say --------------------------------------------------------------------------------------


@CHECKED
@given(
    title=SHOWN,
    summary=WORDS,
    limitations=WORDS,
    authors=st.lists(SHOWN, max_size=3),
    tags=st.lists(WHOLE, max_size=3),
    tracking=WORDS,
)
@example(title="x", summary="\n", limitations="\n", authors=[], tags=[], tracking="\n")
@example(
    title="x", summary="", limitations="\u2028", authors=[], tags=["\x85", "", "on"], tracking="https://x.example/|"
)
def test_any_words_of_the_recipes_card_survive(
    title: str, summary: str, limitations: str, authors: list[str], tags: list[str], tracking: str
) -> None:
    words = {"title": title, "summary": summary, "limitations": limitations, "tracking": tracking}
    recipe = samples.recipe(**words, authors=tuple(authors), tags=tuple(tags))
    evidence = samples.evidence()
    made = cards(recipe, evidence)
    link = re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+", clean(tracking))
    tame = samples.recipe(
        title="x",
        summary=harmless(summary),
        limitations=harmless(limitations) if clean(limitations) else "",
        authors=tuple("x" for _ in authors),
        tags=tuple(tags),
        tracking="https://example.org" if link else harmless(tracking.replace("\n", " ")) if clean(tracking) else "",
    )
    same_shape(recipe, tame, made)
    for card in made:
        sound(card, evidence)
        assert [item for item in card.metadata["tags"] if item in tags] == list(dict.fromkeys(tags))
    read = shown(made[0].text)
    assert one_line(title) in read[:3]
    for part in re.split(r"\n\s*\n", clean(summary)):
        assert not one_line(part) or one_line(part) in read


@CHECKED
@given(st.lists(WORDS, min_size=1, max_size=3), WORDS.filter(bool))
@example(languages=["\ud800"], licence="x")
@example(languages=["en"], licence="\ud800")
def test_any_language_and_licence_read_back_and_change_nothing_else(languages: list[str], licence: str) -> None:
    if re.search("[\ud800-\udfff]", "".join((*languages, licence))):  # no recipe can hold half a character
        card = samples.recipe().card.model_copy(update={"language": tuple(languages)})
        recipe = samples.recipe().model_copy(update={"card": card, "license": licence})
        with pytest.raises(RefusedError, match="unusual characters"):
            cards(recipe, samples.evidence())
        return
    recipe = samples.recipe(language=tuple(languages))
    evidence = samples.evidence()
    for card in cards(recipe, evidence):
        sound(card, evidence, language=False)
        assert card.metadata["language"] == languages
        assert skeleton(card.text) in _expected(_plain(samples.recipe()))
    other = samples.recipe().model_copy(update={"license": licence})
    for card, tame in zip(cards(other, samples.evidence()), _licensed(bool(one_line(licence))), strict=True):
        assert read_block(card.text) == card.metadata and card.metadata.get("license") == licence
        assert skeleton(card.text) == tame


@functools.cache
def _licensed(named: bool) -> list[Skeleton]:
    tame = samples.recipe().model_copy(update={"license": "x" if named else ""})
    return [skeleton(card.text) for card in cards(tame, samples.evidence())]


def test_every_attack_in_every_word_of_the_recipe_at_once() -> None:
    variants = samples.recipe().variants
    for attack in ATTACKS:
        if not one_line(attack) or "\ud800" in attack:  # half a character is refused: no recipe can hold it
            continue
        words = {"title": attack, "summary": attack, "limitations": attack}
        recipe = samples.recipe(**words, authors=(attack,), tags=(attack,), tracking=f"see {attack}")
        titled = {"main": variants["main"].model_copy(update={"title": attack})}
        recipe = recipe.model_copy(update={"variants": {**variants, **titled}})
        tame = samples.recipe(
            title="x", summary=harmless(attack), limitations=harmless(attack), authors=("x",), tags=("x",), tracking="x"
        )
        evidence = samples.evidence()
        made = cards(recipe, evidence)
        same_shape(recipe, tame, made)
        for card in made:
            sound(card, evidence)
            assert card.metadata["tags"][0] == attack
        read = shown(made[0].text)
        assert one_line(attack) in read[:3] and any(f" · by {one_line(attack)}" in part for part in read), attack


# --- names that a recipe gives, as far as its rules let them through -----------------------------------------------


def _named(branch: str, stage: str, data: str, repo: str, title: str, suite: str, arguments: Mapping[str, Any]) -> str:
    """A recipe in which these names stand, as the YAML that a person's editor would write."""
    return yaml.safe_dump(
        {
            "repo": "me/tiny-dpo",
            "visibility": "public",
            "licence": "apache-2.0",
            "base": {"repo": repo, "revision": title},
            "data": {data: [{"repo": repo, "split": "train[:50%]+test", "mapping": None}]},
            "stages": {
                stage: {"data": data, "args": dict(arguments), "lora": {"target_modules": list(arguments)}},
                "sft": {"data": data, "continues": stage, "uses": "sft"},
            },
            "variants": {branch: {"stage": stage, "gate": "report", "title": title}, "main": {"stage": "sft"}},
            "evaluate": {"suites": [suite]},
            "gates": {"stop_rate": {"prompts_from": data}},
            "card": {"title": "T", "summary": "S."},
        },
        allow_unicode=True,
    )


ODD_BRANCHES = [
    "a`b", "a``", "|", "a|b", "<b>", "a</details>", "{{7}}", "{%x%}", "#1", "!x", "]x", "x](y)", "a\"b'c", "&amp;",
    "$(x)", "ü", "\u202ex", "\u2028x", "\x85", "a;b", "(", "<!--", "-->", "=", "+1", "1.", "_x_", "a_b_", "<|x|>",
]  # fmt: skip


def _is_branch(name: str) -> bool:
    return ref_problem(name) is None and name.lower() != "main" and not name.startswith(("staging", "main/"))


BRANCHES = st.one_of(
    st.sampled_from(ODD_BRANCHES),
    st.text(alphabet=SIGNS.replace("\n", "").replace("\t", "") + "é\u2028\x85", min_size=1, max_size=20),
).filter(_is_branch)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True).filter(lambda name: name not in {"sft"})
REPOS = st.from_regex(r"[A-Za-z0-9_.-]{1,12}/[A-Za-z0-9_.-]{1,12}", fullmatch=True).filter(
    lambda name: repo_id_problem(name) is None
)


@CHECKED
@given(
    branch=BRANCHES, stage=NAMES, data=NAMES, repo=REPOS, title=SHOWN, suite=SHOWN,
    arguments=st.dictionaries(SHOWN, st.one_of(WORDS, st.lists(WORDS, max_size=2), st.booleans()), max_size=2),
)  # fmt: skip
@example(
    branch="<|x|>`|",
    stage="-",
    data="_",
    repo="1/2",
    title="|`",
    suite="{{ '53aa' ~ '9e2f' }}",
    arguments={"a|`": ["|"]},
)
@example(
    branch="_",
    stage="1",
    data="null",
    repo="on/off",
    title="\n---\n",
    suite="a\u2028b",
    arguments={"\x00n0\x00": "</details>"},
)
def test_any_name_that_a_recipe_may_give_survives(
    branch: str, stage: str, data: str, repo: str, title: str, suite: str, arguments: dict[str, Any]
) -> None:
    text = _named(branch, stage, data, repo, title, suite, arguments)
    try:
        recipe = parse_recipe(text)
    except Exception as error:
        assert type(error).__name__ == "UsageError", error
        assume(False)
    tame = parse_recipe(
        _named("x", "x", "x", "x/x", "x", "x", {f"x{n}": _tamed(value) for n, value in enumerate(arguments.values())})
    )
    for variant, other in ((branch, "x"), ("main", "main")):
        evidence, expected = placeholder(recipe), cards(tame, placeholder(tame), other)
        for card, plain in zip(cards(recipe, evidence, variant), expected, strict=True):
            sound(card, evidence)
            assert skeleton(card.text) == skeleton(plain.text)
            assert card.metadata["base_model"] == repo and card.metadata["datasets"] == [repo]
        text = cards(recipe, evidence, variant)[0].text
        assert variant in _strings(text) and one_line(variant) in _spans(text)


def _tamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_tamed(item) for item in value]
    return value if isinstance(value, bool) else "x" if one_line(value) else ""


def _spans(card: str) -> set[str]:
    """Every code span of a card."""
    children = (child for token in parsed(card) for child in token.children or [])
    return {child.content for child in children if child.type == "code_inline"}


def _strings(card: str) -> set[str]:
    """Every string of the Python blocks of a card."""
    found: set[str] = set()
    for token in parsed(card):
        if token.type == "fence" and token.info == "python":
            tree = ast.walk(ast.parse(token.content))
            found |= {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found


# --- words of result files -------------------------------------------------------------------------------------------


def _put(place: str) -> Callable[[dict[str, Any], str], None]:
    def put(files: dict[str, Any], text: str) -> None:
        value: Any = files
        *above, last = place.split("/")
        for key in above:
            value = value[int(key) if isinstance(value, list) else key]
        value[int(last) if isinstance(value, list) else last] = text

    return put


def _task(files: dict[str, Any], text: str) -> None:
    for step in ("base-scores", "evaluate[main]", "evaluate[dpo-v0]"):
        results = files[step]["results.json"]
        results["suites"] = json.loads(json.dumps(results["suites"]).replace('"tiny_facts"', json.dumps(text)))


def _metric(files: dict[str, Any], text: str) -> None:
    for step in ("base-scores", "evaluate[main]", "evaluate[dpo-v0]"):
        for suite in files[step]["results.json"]["suites"].values():
            for task in suite["tasks"].values():
                task["metrics"][text] = dict(task["metrics"]["acc"])


PLACES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "turn end": _put("base/base.json/end_of_turn/token"),
    "finding": _put("data/data.json/findings/0/message"),
    "licence of data": _put("data/data.json/sets/repair/sources/0/licence"),
    "split": _put("data/data.json/sets/repair/sources/0/split"),
    "commit of data": _put("data/data.json/sets/repair/sources/0/commit"),
    "reason of drops": lambda files, text: files["data"]["data.json"]["sets"]["repair"]["sources"][0].update(
        dropped={text: 1}
    ),
    "method": _put("train[sft]/training.json/method"),
    "device": _put("train[sft]/training.json/device"),
    "quantization": _put("train[sft]/training.json/quantization"),
    "argument": _put("train[sft]/training.json/args/loss_type"),
    "name of an argument": lambda files, text: files["train[sft]"]["training.json"]["args"].update({text: "x"}),
    "library": lambda files, text: files["train[sft]"]["training.json"]["libraries"].update({text: text}),
    "dtype of the merge": _put("merge[main]/merge.json/dtype"),
    "backend": _put("evaluate[main]/results.json/settings/backend"),
    "task": _task,
    "metric": _metric,
}


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=SHOWN)
@example(text="| `x`")
@example(text="\\|`")
@example(text="</details>\n\n# x")
def test_any_word_of_a_result_file_survives(place: str, text: str) -> None:
    assume(
        place not in {"name of an argument", "library", "metric"} or one_line(text) not in {"x", "acc", "trl", "peft"}
    )
    made = []
    for word in (text, "x-"):
        files = json.loads(json.dumps(samples.evidence().files))
        PLACES[place](files, word)
        evidence = Evidence(files, samples.evidence().template, {}, "What does Ada grow?")
        made.append((cards(samples.recipe(), evidence), evidence))
    (hostile, evidence), (plain, _) = made
    for card, tame in zip(hostile, plain, strict=True):
        sound(card, evidence)
        assert skeleton(card.text) == skeleton(tame.text)


@settings(CHECKED, max_examples=20)
@given(question=SHOWN)
@example(question="a\n```\n# out\n~~~\n````")
@example(question='"""\n\\\n</details>\n<!-- hubkit:end prompt -->\n')
def test_any_question_of_the_data_survives(question: str) -> None:
    evidence = Evidence(samples.evidence().files, samples.evidence().template, {}, question)
    made = cards(samples.recipe(), evidence)
    same_shape(samples.recipe(), samples.recipe(), made)
    for card in made:
        sound(card, evidence)
        assert clean(question) in _strings(card.text)
    fences = [token.content for token in parsed(made[0].text) if token.type == "fence"]
    assert any(f"<|im_start|>user\n{clean(question)}<|im_end|>" in content for content in fences)


# --- a great deal of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["`", "|", "```\n", "<!--", "[", "*a_", "a\n\n", "{{", "&"])
def test_a_hundred_thousand_characters_survive(unit: str) -> None:
    text = (unit * 100_000)[:100_000]
    assert len(text) == 100_000
    title = text[:20_000]  # a heading of so many brackets takes the parser seconds
    recipe = samples.recipe(title=title, summary=text, limitations=text, authors=(title,), tags=(text,))
    evidence = samples.evidence()
    tame = samples.recipe(title="x", summary=harmless(text), limitations=harmless(text), authors=("x",), tags=("x",))
    made = cards(recipe, evidence)
    same_shape(recipe, tame, made)
    for card in made:
        sound(card, evidence)
        assert card.metadata["tags"][0] == text
    assert one_line(title) in shown(made[0].text)[:3]


def test_the_canary_is_one(tmp_path: Path) -> None:
    """Each payload writes the canary where it is evaluated; so its absence on a card says something."""
    import jinja2

    told = 0
    for payload in PAYLOADS:
        source = payload.removeprefix("#}").removesuffix("{#").removeprefix("%}").removesuffix("{%")
        told += CANARY in jinja2.Environment().from_string(source).render()
    assert told == len(PAYLOADS)
