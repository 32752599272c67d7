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
from PIL import Image

from hubkit.cards.evidence import Evidence
from hubkit.cards.pictures import draw
from hubkit.cards.render import ADAPTER_CARD, render_card
from hubkit.cards.template_context import build_context
from hubkit.checks.screening import screen

_DRAW = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import card_samples as samples
from hubkit.cards.template_context import build_context
from hubkit.cards.pictures import draw
pictures = draw(build_context(samples.recipe(), "main", samples.evidence()))
print(json.dumps({name: hashlib.sha256(picture).hexdigest() for name, picture in pictures.items()}))
"""


def _context(evidence: Evidence | None = None, **card: Any) -> dict[str, Any]:
    return build_context(samples.recipe(**card), "main", evidence or samples.evidence())


def test_the_pictures_are_those_that_the_card_shows_and_nothing_else() -> None:
    context = _context()
    pictures, text = draw(context), render_card(context).text
    assert sorted(pictures) == ["assets/benchmarks.png", "assets/header.png", "assets/training.png"]
    for path, content in pictures.items():
        assert f"]({path})" in text
        picture = Image.open(io.BytesIO(content))
        assert picture.format == "PNG" and picture.width == 1280 and len(content) < 200_000
        assert "Software" not in picture.info and picture.getextrema()[3] == (255, 255), "no time, no transparency"
    assert "](assets/" not in render_card(context, ADAPTER_CARD).text


def test_their_words_for_those_who_do_not_see_them_tell_the_figures() -> None:
    alt = [line for line in render_card(_context()).text.splitlines() if line.startswith("![")]
    assert alt == [
        "![Tiny Hermes DPO, branch main: stop rate of the merged weights 99.2 % (127 of 128; 95.7 % to "
        "99.9 %), benchmark average 0.8320](assets/header.png)",
        "![Benchmark average: base 0.9570, dpo-v0 0.8840, main 0.8320](assets/benchmarks.png)",
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
    before, after = draw(_context()), draw(_context(samples.evidence(repaired=120, scores=(0.957, 0.884, 0.9))))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"assets/header.png", "assets/benchmarks.png"}


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
    from hubkit.evals.results import Results, SuiteResult

    one = samples.results(0.5)
    suite = one.suites["tiny_facts"]
    many = Results.of(
        suites={f"s{place}": SuiteResult.of(f"s{place}", f"Suite {place}", "own", suite.tasks) for place in range(12)},
        **{name: getattr(one, name) for name in ("subject", "settings", "libraries", "seconds")},
    ).model_dump(mode="json")
    whole = samples.evidence()
    files = {step: {"results.json": many} if "results.json" in made else made for step, made in whole.files.items()}
    picture = Image.open(io.BytesIO(draw(_context(Evidence(files, whole.template)))["assets/benchmarks.png"]))
    assert picture.width == 1280 and picture.height < 2400
