"""The pictures of a card: drawn from its numbers, the same bytes for the same numbers, whatever the machine says."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from matplotlib.text import Text
from PIL import Image

from hubkit.cards import pictures
from hubkit.cards.evidence import Evidence
from hubkit.cards.pictures import draw
from hubkit.cards.render import ADAPTER_CARD, render_card
from hubkit.cards.template_context import build_context
from hubkit.checks.screening import screen
from hubkit.evals.results import Results, SuiteResult
from hubkit.recipe.models import Recipe

_DRAW = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import card_samples as samples
from hubkit.cards.template_context import build_context
from hubkit.cards.pictures import draw
pictures = draw(build_context(samples.recipe(), "main", samples.evidence()))
print(json.dumps({name: hashlib.sha256(picture).hexdigest() for name, picture in pictures.items()}))
"""


TASKS = ("agieval_aqua_rat", "agieval_sat_en_without_passage", "piqa")


def _several_tasks(main: float = 0.832) -> Evidence:
    """The tiny release, whose benchmarks have three tasks of the same results."""
    whole = samples.evidence()
    files = dict(whole.files)
    for step, value in (("base-scores", 0.957), ("evaluate[dpo-v0]", 0.884), ("evaluate[main]", main)):
        one = samples.results(value)
        task = one.suites["tiny_facts"].tasks["tiny_facts"]
        assert task
        tasks = {name: task.model_copy(update={"name": name}) for name in TASKS}
        facts = {name: getattr(one, name) for name in ("subject", "settings", "libraries", "seconds")}
        made = Results.of(suites={"agieval": SuiteResult.of("agieval", "AGIEval", "own", tasks)}, **facts)
        files[step] = {"results.json": made.model_dump(mode="json")}
    return Evidence(files, whole.template)


def _context(evidence: Evidence | None = None, **card: Any) -> dict[str, Any]:
    return build_context(samples.recipe(**card), "main", evidence or samples.evidence())


def test_the_pictures_are_those_that_the_card_shows_and_nothing_else() -> None:
    context = _context(_several_tasks())
    drawn, text = draw(context), render_card(context).text
    assert sorted(drawn) == ["assets/benchmarks.png", "assets/header.png", "assets/training.png"]
    for path, content in drawn.items():
        assert f"]({path})" in text
        picture = Image.open(io.BytesIO(content))
        assert picture.format == "PNG" and picture.width == 1280 and len(content) < 200_000
        assert "Software" not in picture.info and picture.getextrema()[3] == (255, 255), "no time, no transparency"
    assert "](assets/" not in render_card(context, ADAPTER_CARD).text


def test_their_words_for_those_who_do_not_see_them_tell_the_figures() -> None:
    alt = [line for line in render_card(_context(_several_tasks())).text.splitlines() if line.startswith("![")]
    assert alt == [
        "![Tiny Hermes DPO, branch main: stop rate 99.2 %, AGIEval 83.2 %](assets/header.png)",
        "![Benchmark average: base 95.7 %, dpo-v0 88.4 %, main 83.2 %](assets/benchmarks.png)",
        "![Training loss by step: stage dpo from 0.693 to 0.041 in 150 steps, stage sft from 0.693 to 0.041 in "
        "40 steps](assets/training.png)",
    ]


def test_equal_inputs_give_equal_bytes_on_a_machine_with_settings_of_its_own(tmp_path: Path) -> None:
    here = {name: hashlib.sha256(content).hexdigest() for name, content in draw(_context()).items()}
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nfigure.dpi: 40\naxes.facecolor: red\nsavefig.dpi: 30\n")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path), "TZ": "Asia/Tokyo",
        "PYTHONPATH": os.pathsep.join(sys.path), "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "7",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _DRAW, str(Path(samples.__file__).parent)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == here


def test_another_number_gives_another_picture() -> None:
    before, after = draw(_context(_several_tasks())), draw(_context(_several_tasks(0.9)))
    assert {name for name in before if before[name] != after[name]} == {"assets/header.png", "assets/benchmarks.png"}


def test_there_is_no_chart_of_a_single_task_and_none_of_what_is_no_share() -> None:
    assert sorted(draw(_context())) == ["assets/header.png", "assets/training.png"]
    perplexity = _several_tasks(17.0)
    assert sorted(draw(_context(perplexity))) == ["assets/header.png", "assets/training.png"]


def _has_red(variant: str, recipe: Recipe, evidence: Evidence) -> bool:
    picture = draw(build_context(recipe, variant, evidence))["assets/header.png"]
    found = Image.open(io.BytesIO(picture)).convert("RGB").getcolors(2**24) or []
    return any(color == (0xF8, 0x71, 0x71) and count > 300 for count, color in found)


def test_a_rate_that_fails_its_gate_is_red_and_no_other() -> None:
    evidence = samples.evidence()
    assert [_has_red(name, samples.recipe(), evidence) for name in ("main", "dpo-v0")] == [False, True]
    ungated = Evidence({step: made for step, made in evidence.files.items() if step != "gate"}, evidence.template)
    assert not _has_red("dpo-v0", samples.recipe(), ungated)


def test_shares_are_drawn_from_0_to_1_and_every_letter_can_be_read_on_a_phone() -> None:
    assert 360 / 1280 * pictures.SMALLEST * 200 / 72 > 10, "CSS pixels where a phone shows it"
    context = _context(_several_tasks())
    words = []
    for draws in (pictures._header, pictures._benchmarks, pictures._training):
        figure = draws(context)
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts) >= pictures.SMALLEST
        if draws != pictures._training:
            assert [ax.get_xlim() for ax in figure.axes] == [(0, 1)]
        words.append({text.get_text() for text in texts})
    assert {"Stop rate", "AGIEval", "base", "main", "99.2 %"} <= words[0]
    assert {"agieval_sat_en_without_passage", "base", "dpo-v0", "83.2 %", "95.7 %", "0 %", "100 %"} <= words[1]


def test_there_is_no_picture_of_what_was_not_measured() -> None:
    whole = samples.evidence()
    files = {step: made for step, made in whole.files.items() if not step.startswith(("evaluate", "base-scores"))}
    for step in ("train[dpo]", "train[sft]"):
        files[step] = {"training.json": {**whole.files[step]["training.json"], "curve": [{"step": 1, "loss": 0.5}]}}
    files["stopping[main]"] = {"stopping.json": {**samples.stopping(merged=3), "forms": {}}}
    context = _context(Evidence(files, whole.template))
    assert draw(context) == {} and "![" not in render_card(context).text


@pytest.mark.parametrize(
    "title",
    ["$\\frac{1}{2}$ {x} \\alpha", "W" * 4000, "模型 🙂", "a\nb\x00c", "\u202eabc", " ", "$" * 9, "<b>&amp;"],
)
def test_any_title_can_be_drawn(title: str) -> None:
    context = _context(title=title)
    assert Image.open(io.BytesIO(draw(context)["assets/header.png"])).width == 1280


def test_pictures_pass_the_screening(tmp_path: Path) -> None:
    files = {}
    for name, content in draw(_context()).items():
        files[name] = tmp_path / name
        files[name].parent.mkdir(exist_ok=True)
        files[name].write_bytes(content)
    assert screen(files) == []


def test_many_suites_are_shown_by_their_averages() -> None:
    one = samples.results(0.5)
    suite = one.suites["tiny_facts"]
    many = Results.of(
        suites={f"s{place}": SuiteResult.of(f"s{place}", f"Suite {place}", "own", suite.tasks) for place in range(12)},
        **{name: getattr(one, name) for name in ("subject", "settings", "libraries", "seconds")},
    ).model_dump(mode="json")
    whole = samples.evidence()
    files = {step: {"results.json": many} if "results.json" in made else made for step, made in whole.files.items()}
    picture = Image.open(io.BytesIO(draw(_context(Evidence(files, whole.template)))["assets/benchmarks.png"]))
    assert picture.width == 1280 and picture.height < 2 * picture.width
