"""The first screen of a card: what the model is, which branch to use, real answers, and how to run it."""

from __future__ import annotations

import json
import re
import textwrap
from itertools import pairwise

import card_samples as samples
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_samples import shown_text

from hubkit.cards.escape import EXCERPT, excerpt
from hubkit.cards.evidence import Evidence
from hubkit.cards.render import render_card
from hubkit.cards.template_context import build_context
from hubkit.recipe.loading import parse_recipe

PARSER = MarkdownIt("commonmark").enable("table")
SPACE = "space: {repo: me/tiny-space}\n"


def _card(variant: str = "main", recipe: str = samples.RECIPE, evidence: Evidence | None = None) -> str:
    return render_card(build_context(parse_recipe(recipe), variant, evidence or samples.evidence())).text


def _first_screen(text: str) -> list[str]:
    """The lines that a reader sees above the quickstart, at 100 columns; pictures and front matter aside."""
    above = text.partition("\n---\n")[2].partition("<!-- hubkit:begin quickstart")[0]
    above = re.sub(r"<!--.*?-->|!\[.*?\]\(.*?\)", "", above)
    above = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", above)
    rows = [line for line in above.splitlines() if line.strip() and not re.fullmatch(r"[|: -]+", line)]
    return [part for line in rows for part in textwrap.wrap(line, 100)]


@pytest.mark.parametrize("variant", ["main", "dpo-v0"])
def test_ten_seconds_on_the_first_screen_tell_all(variant: str) -> None:
    text = _card(variant, samples.RECIPE + SPACE, samples.evidence(broken=0))
    lines = _first_screen(text)
    assert len(lines) <= 25, "\n".join(lines)
    seen = "\n".join(lines)
    assert "A chat model, fine-tuned from `me/tiny` by DPO on `Intel/orca_dpo_pairs`" in seen
    assert "361,000 parameters · context 2,048 tokens · `apache-2.0` · by A. Person, B. Person · **Try it**" in (
        " ".join(lines)
    )
    assert "](/spaces/me/tiny-space)" in text
    assert "base: `me/tiny` | | 100 % | 95.7 %" in seen and "| DPO only | 0 % | 88.4 %" in seen
    assert ("**Use `main`**, this branch." if variant == "main" else "**Use `main` instead:**") in seen
    assert 'pipeline("text-generation", "me/tiny-dpo"' in seen
    assert "tiny_facts on this branch: significantly worse than the base." in " ".join(lines)
    assert "base | Ada. **✓ stopped**" in seen and "… **✗ cut at 64 tokens**" in seen


def test_the_interval_of_a_rate_is_not_on_the_first_screen() -> None:
    assert not re.search(r"% to|\d of \d+;", "\n".join(_first_screen(_card("dpo-v0"))))


def test_answers_are_of_the_same_prompts_in_all_rows() -> None:
    files = json.loads(json.dumps(samples.evidence().files))
    answered = files["stopping[dpo-v0]"]["stopping.json"]["forms"]["merged"]["answers"]
    del answered[0]
    text = _card(evidence=Evidence(files, samples.evidence().template))
    table = text.partition("## Sample answers")[2].partition("\n\nGreedy")[0]
    assert "Who grows pears?" not in table and "What does Ada grow?" in table and "Where?" in table
    for step in ("base-stopping", "stopping[main]", "stopping[dpo-v0]"):
        for form in files[step]["stopping.json"]["forms"].values():
            form.pop("answers", None)
    old = _card(evidence=Evidence(files, samples.evidence().template))
    assert "## Sample answers" not in old, "measured by an earlier version"


def test_which_to_use_is_the_one_that_ends_its_answers() -> None:
    assert "**Use `main`**, this branch." in _card(evidence=samples.evidence(broken=128))
    broken_main = samples.evidence(broken=128, repaired=5)
    assert "**Use [`dpo-v0`](/me/tiny-dpo/tree/dpo-v0)**, not this branch (`main`)." in _card(evidence=broken_main)
    neither = _card(evidence=samples.evidence(broken=5, repaired=5))
    assert "No branch ends its answers reliably." in neither
    assert "No other branch ends them reliably: set a token limit." in neither


def test_a_failed_benchmark_is_warned_of() -> None:
    files = json.loads(json.dumps(samples.evidence().files))
    files["gate"]["gates.json"]["variants"]["main"]["benchmarks"] = [
        {"benchmark": "tiny_facts", "against": "base", "margin": 0.01, "result": "failed", "before": 0.957,
         "after": 0.832, "drop": 0.125, "stderr": 0.02, "p": 0.001, "level": 0.05, "n": 200, "changed": 30,
         "detectable": 0.05, "note": None, "commit": None}
    ]  # fmt: skip
    text = _card(evidence=Evidence(files, samples.evidence().template))
    assert "fails the release's gate on benchmarks:** tiny_facts fell from 0.9570 to 0.8320." in text


def test_one_task_has_no_average_and_one_license_stands_once() -> None:
    text = _card()
    assert "**Average**" not in text and "### tiny_facts" not in text
    files = json.loads(json.dumps(samples.evidence().files))
    for item in files["data"]["data.json"]["sets"].values():
        for source in item["sources"]:
            source["licence"] = "mit"
    alike = _card(evidence=Evidence(files, samples.evidence().template))
    assert alike.count("`mit`") == 1 and "License of the datasets: `mit`." in alike and "| License |" not in alike
    assert "| 299 of 300 |" in text, "rows trained on, of those that were read"


@given(st.one_of(st.text(max_size=400), st.text("|<b>\n*_`[](x)!#-\\&~ ", max_size=300)))
def test_an_excerpt_is_one_cell_of_plain_text(text: str) -> None:
    tokens = PARSER.parse(f"| a |\n|---|\n| {excerpt(text)} |\n\nend")
    cells = [after for token, after in pairwise(tokens) if token.type == "td_open"]
    assert len(cells) == 1 and tokens[-2].content == "end"
    kinds = {child.type for child in cells[0].children or []}
    assert kinds <= {"text", "text_special"} or excerpt(text) == "*(empty)*"
    assert len(shown_text(cells[0])) <= EXCERPT + 2


def test_an_excerpt_shows_what_it_leaves_out() -> None:
    assert excerpt("One.\n\n  Two.") == "One. ↵ Two."
    assert excerpt("word " * 40) == f"{'word ' * 19}word …"
    assert excerpt("x" * 200) == f"{'x' * EXCERPT} …"
