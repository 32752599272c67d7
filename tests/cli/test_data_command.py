"""`hubkit data`: what it prints of the rows of a recipe, from what a run prepared."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from preparations import PAIR, chats, made_of, pairs, recipe

from hubkit.cli import data as command
from hubkit.core.errors import UsageError
from hubkit.core.output import Output
from hubkit.core.target import Target
from hubkit.evals.contamination import Contamination
from hubkit.pipeline.data_report import DataFound, data_of
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.mistakes import Places
from hubkit.recipe.stage import StageResult
from hubkit.training.data.prepared import PreparedData


@pytest.fixture
def found(make_tokenizer: Any, tmp_path: Path) -> DataFound:
    """What a finished run has of its data, read as the command reads it."""
    run, asked = Run(tmp_path / "run"), recipe()
    run.begin("data", "k")
    questions = Contamination()
    questions.add("own", "things", [chats(60)[n]["instruction"] for n in range(60)])
    tables = {"them/pairs": [*pairs(60), {**PAIR, "chosen": None}], "them/chats": [*chats(40), chats(1)[0]]}
    report = made_of(asked, tables, make_tokenizer(), folder=run.out("data"), benchmarks=questions)
    artifact = PreparedData.write(report, run.out("data"))
    run.keep("data", "k", StageResult(artifact, "made"), 0.0)
    kept = run.find("data")
    assert kept is not None
    state = ReleaseState(asked, tmp_path, Target("", tmp_path), run, expand(asked), {"data": kept})
    return data_of(state, tmp_path / "home", Output("quiet"), Places())


def printed(lines: Any) -> str:
    stream = io.StringIO()
    Output("human", stdout=stream).result({}, *lines)
    return stream.getvalue()


def test_check_says_what_was_kept_dropped_and_found(found: DataFound) -> None:
    findings = [item.restored() for item in found.data.findings]
    text = " ".join(printed(command._check_lines(found, findings)).split())
    assert "repair them/chats (instruction) 41 40 5 0 10 1 duplicate" in text
    assert "1 null: chosen" in text and "1 duplicate" in text
    assert '"rejected": "A dog."' in text, "the row that was dropped"
    assert "5 prompts held out from repair." in text
    assert "dpo chosen" in text and "own things 60" in text


def test_show_marks_what_is_trained_in_plain_text(found: DataFound) -> None:
    rows = found.shown["examples"]["sft"]
    text = printed(command._row_lines("sft", "repair", rows))
    assert text.count("[[It is ") == 3
    assert "<|im_end|>\n]]" in text
    assert "[[<|im_start|>user" not in text


def test_show_takes_a_stage_or_a_dataset(found: DataFound) -> None:
    examples, asked = found.shown["examples"], recipe()
    assert command._stages(asked, None, examples) == ["dpo", "sft"]
    assert command._stages(asked, "preferences", examples) == command._stages(asked, "dpo", examples) == ["dpo"]
    with pytest.raises(UsageError, match="No stage trains on 'others'") as refused:
        command._stages(asked, "others", examples)
    assert refused.value.hint == "Pass one of dpo, sft, preferences, repair, or leave it out."


def test_a_recipe_with_mistakes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    asked = recipe()
    wrong = asked.model_copy(update={"chat": asked.chat.model_copy(update={"template": "chatlm"})})
    state = ReleaseState(wrong, tmp_path, Target("", tmp_path), Run(tmp_path / "run"), expand(wrong))
    with pytest.raises(UsageError, match="did you mean 'chatml'"):
        data_of(state, tmp_path / "home", Output("quiet"), Places())
    assert not (tmp_path / "home").exists()
