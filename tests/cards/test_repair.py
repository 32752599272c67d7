"""The known issue reports what was measured and no more: intervals, chains of repairs, verdicts by form."""

from __future__ import annotations

import json
import re
from typing import Any

import card_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.cards.evidence import Evidence
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, render_card
from hubkit.cards.template_context import build_context
from hubkit.core.intervals import difference, wilson
from hubkit.core.numbers import share
from hubkit.recipe.models import Recipe

COUNTS = st.integers(1, 3000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))
CHAIN = samples.RECIPE.replace(
    "variants:\n",
    "  more: {data: repair, continues: sft}\nvariants:\n  v1: {stage: sft, title: repaired}\n",
).replace("main: {stage: sft,", "main: {stage: more,")


# --- intervals -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(COUNTS)
def test_wilsons_interval_is_scipys(counts: tuple[int, int]) -> None:
    from scipy.stats import binomtest

    low, high = wilson(*counts)
    theirs = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    share = counts[0] / counts[1]
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1 and low < high
    assert wilson(counts[1] - counts[0], counts[1]) == pytest.approx((1 - high, 1 - low))
    more = wilson(10 * counts[0], 10 * counts[1])
    assert more[1] - more[0] < high - low, "ten times as many answers tell more"


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        # Newcombe (see end_of_turn.difference), table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_difference_of_two_shares_against_published_values(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    assert difference(first, second) == pytest.approx((low, high), abs=6e-5)


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_the_difference_is_the_same_from_either_side(first: tuple[int, int], second: tuple[int, int]) -> None:
    low, high = difference(first, second)
    assert difference(second, first) == pytest.approx((-high, -low))
    assert -1 <= low <= first[0] / first[1] - second[0] / second[1] + 1e-12 <= high + 2e-12 <= 1 + 2e-12
    assert difference((0, 0), second) == (-1.0, 1.0)
    apart = wilson(*first)[1] < wilson(*second)[0]
    assert not apart or high < 0, "intervals that do not touch are a difference"


# --- the known issue and its fix -------------------------------------------------------------------------------------


KNOWN_ISSUE, WHY = "## Known issue: answers run on", "## Why t(?:here are two branches|his branch exists)"
THIS = "## Why this branch exists"
LOST = "## Known issue: answers run on This branch does not"


def _begins(heading: str, variant: str) -> str:
    """How the section begins that is about ``variant``."""
    return f"{heading} [`{variant}`](/me/tiny-dpo/tree/{variant}) "


def _said(variant: str, evidence: Evidence, *, recipe: Recipe | None = None, which: str = MODEL_CARD) -> str:
    text = render_card(build_context(recipe or samples.recipe(), variant, evidence), which).text
    if which == ADAPTER_CARD:
        return " ".join(text.split())
    found = re.search(
        rf"^({KNOWN_ISSUE}|{WHY})\n(.*?)(?:^## |^<!-- hubkit:end erratum)", text, re.DOTALL | re.MULTILINE
    )
    return f"{found[1]} {' '.join(found[2].split())}" if found else ""


def test_a_base_that_passes_the_gate_is_not_said_to_fail_it() -> None:
    # 121 of 128 is less than the gate's 95 %; the interval of 128 of 128 still touches its own
    for base, worse in ((128, True), (124, False)):
        evidence = samples.evidence(base=base, broken=121)
        lost, mended = _said("dpo-v0", evidence), _said("main", evidence)
        assert "either does the base" not in lost + mended, base
        assert ("stopped emitting the end-of-turn token" in mended) is worse
        assert ("fails the gate, but the difference from the base is within the measurement error" in lost) is not worse
    assert wilson(121, 128)[1] > wilson(128, 128)[0]
    failing = samples.evidence(base=60, broken=60)
    assert "Neither does the base model." in _said("dpo-v0", failing)


def test_a_base_that_seldom_stops_is_said_to_although_a_gate_is_relative_to_it() -> None:
    evidence = samples.evidence(base=28, broken=20, repaired=127)
    verdicts = evidence.files["gate"]["gates.json"]["variants"]
    for name in verdicts:
        verdicts[name] |= {"threshold": 28 / 128 - 0.02, "passed": name == "main"}
    assert "Neither does the base model. Of the base model, 28 of 128 answers" in _said("dpo-v0", evidence)
    assert "does not reliably end its answers, and neither does the base:" in _said("main", evidence)


def test_why_a_branch_is_still_published_is_not_guessed() -> None:
    said = _said("dpo-v0", samples.evidence())
    assert re.search(r"from 0\.\d{4} here to 0\.\d{4} there\.", said) and "that is why" not in said


def _chained(v0: int, v1: int, main: int | None) -> Evidence:
    """Measurements of three variants, each going on from the one before."""
    one, two = samples.evidence(broken=v0, repaired=v1), samples.evidence(repaired=main or 0)
    files = json.loads(json.dumps(one.files))
    gates = files["gate"]["gates.json"]["variants"]
    for step in ("stopping", "evaluate", "merge"):
        files[f"{step}[v1]"], files[f"{step}[main]"] = files[f"{step}[main]"], two.files[f"{step}[main]"]
    gates["v1"], gates["main"] = gates["main"], two.files["gate"]["gates.json"]["variants"]["main"]
    if main is None:
        del gates["main"]
    files["train[more]"] = {
        "training.json": {**files["train[sft]"]["training.json"], "stage": "more", "continues": "sft"}
    }
    return Evidence(files, one.template)


@pytest.mark.parametrize(
    ("rates", "begins"),
    [
        ((3, 127, 127), {"dpo-v0": LOST, "v1": THIS, "main": ""}),
        ((127, 127, 127), {"dpo-v0": "", "v1": "", "main": ""}),
        ((3, 127, 5), {"v1": THIS, "main": LOST}),
        ((3, 5, 127), {"dpo-v0": LOST, "v1": _begins(KNOWN_ISSUE, "dpo-v0"), "main": _begins(THIS, "v1")}),
        ((3, 5, 5), {"v1": _begins(KNOWN_ISSUE, "dpo-v0"), "main": _begins(KNOWN_ISSUE, "v1")}),
        ((127, 5, 127), {"dpo-v0": "", "v1": LOST, "main": _begins(THIS, "v1")}),
        ((3, 127, None), {"v1": THIS, "main": ""}),
    ],
)  # fmt: skip
def test_each_variant_answers_for_the_one_it_goes_on_from(rates: Any, begins: dict[str, str]) -> None:
    recipe, evidence = samples.recipe(CHAIN), _chained(*rates)
    for variant, begin in begins.items():
        said = _said(variant, evidence, recipe=recipe)
        assert said.startswith(begin) and bool(said) is bool(begin), (variant, said)


def test_the_adapters_card_goes_by_the_adapter() -> None:
    evidence = samples.evidence(repaired=100)
    files = json.loads(json.dumps(evidence.files))
    files["stopping[main]"]["stopping.json"]["forms"]["adapter"] = samples.form(128)
    said = _said("main", Evidence(files, evidence.template), which=ADAPTER_CARD)
    assert "does not reliably end" not in said and "its stop rate is 100 % (128 of 128;" in said
    assert "does not reliably end its answers" in _said("main", samples.evidence(repaired=100), which=ADAPTER_CARD)
    assert "does not reliably end" not in _said("main", samples.evidence(), which=ADAPTER_CARD)


@pytest.mark.parametrize("which", [MODEL_CARD, ADAPTER_CARD])
@pytest.mark.parametrize("variant", ["main", "dpo-v0"])
def test_every_stop_rate_carries_its_count_and_its_interval(variant: str, which: str) -> None:
    card = render_card(build_context(samples.recipe(), variant, samples.evidence()), which)
    folded = re.search(r"<summary>Stop rates.*?</details>", card.text, re.DOTALL)
    text = folded[0] if folded else card.text
    shares = re.findall(r"([\d.]+ %) \((\d+) of (\d+); ([\d.]+ %) to ([\d.]+ %)\)", text)
    assert len(shares) >= 2
    for rate, stopped, prompts, low, high in shares:
        interval = wilson(int(stopped), int(prompts))
        assert (rate, low, high) == tuple(map(share, (int(stopped) / int(prompts), *interval)))
    lows = [number for number in card.numbers if number.pointer.endswith("/low") and number.file == "stopping.json"]
    assert len(lows) == len(shares), "each interval stands on the card once"
    assert len(shares) == len({(number.step, number.pointer) for number in lows}) or which == ADAPTER_CARD
    assert "ninety-five percent Wilson confidence interval" in " ".join(card.text.split())
