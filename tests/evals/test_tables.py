"""The figures of a published card, read from their text and written again: every cell, every average, every doubt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import hubkit, hubkit_json

from hubkit.evals.averages import Average
from hubkit.evals.comparing import compare
from hubkit.evals.csv_table import read_csv
from hubkit.evals.plausibility import implausible_values
from hubkit.evals.printed_tables import read_text
from hubkit.evals.readers import read_path
from hubkit.evals.results import Results
from hubkit.evals.tables import agrees, comparison_table, tables, today_table

SEED = Path(__file__).parents[1] / "data" / "seed-tables.md"
AVERAGES = {"agieval": "0.4421", "bigbench": "0.4321", "gpt4all": "0.7422", "truthfulqa": "0.5698"}


def _seed() -> Results:
    return read_path(SEED)[0].results


def _cells(text: str) -> list[list[str]]:
    """The cells of every row that holds a number, without padding."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if any(cell.startswith("0.") for cell in row)]


def test_every_cell_of_the_four_published_tables_comes_out_again() -> None:
    there = _cells(SEED.read_text(encoding="utf-8"))
    assert len(there) == 49 and there[0] == ["agieval_aqua_rat", "0", "acc", "0.2559", "±", "0.0274"]
    assert _cells(tables(_seed())) == there


def test_the_published_averages_come_out_and_the_wrong_one_is_noted() -> None:
    seed = _seed()
    assert list(seed.suites) == list(AVERAGES)
    assert {name: suite.rule for name, suite in seed.suites.items()} == {
        "agieval": "acc_norm else acc",
        "bigbench": "multiple_choice_grade",
        "gpt4all": "acc_norm else acc",
        "truthfulqa": "mc2",
    }
    published = {"agieval": "0.4364", "bigbench": "0.4321", "gpt4all": "74.22"}
    lines = [line for line in tables(seed, published=published).splitlines() if line.startswith("Average")]
    assert [line.split(" ")[1] for line in lines[:4]] == list(AVERAGES.values())
    assert lines[0].endswith("Note: 0.4364 was published.")
    assert lines[1].endswith("As published.") and lines[2].endswith("As published.")
    assert "published" not in lines[3] and lines[4].startswith("Average of all: 0.5466")


def test_a_classic_suite_with_a_task_less_has_no_average() -> None:
    kept = [line for line in SEED.read_text(encoding="utf-8").splitlines() if "bigbench_snarks" not in line]
    suite = read_text("\n".join(kept), "card.md", "card").suites["bigbench"]
    assert suite.average.value is None and suite.average.missing == ("bigbench_snarks",)


def test_the_doubtful_values_of_the_published_tables_are_named_and_no_others() -> None:
    seed = _seed()
    assert {(item.code, item.tasks) for item in implausible_values(seed)} == {
        ("chance", ("bigbench_navigate",)),
        (
            "equal",
            (
                "bigbench_logical_deduction_three_objects",
                "bigbench_tracking_shuffled_objects_three_objects",
            ),
        ),
    }


def test_todays_layout_is_that_of_the_installed_harness() -> None:
    """lm-eval's own function makes the table; ours has the same header, and is read back as the same results."""
    from lm_eval.utils import make_table

    raw = {
        "results": {
            "arc_easy": {
                "alias": "arc_easy",
                "acc,none": 0.25,
                "acc_stderr,none": 0.0433,
                "acc_norm,none": 0.5,
                "acc_norm_stderr,none": 0.05,
            },
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.125,
                "exact_match_stderr,strict-match": "N/A",
                "perplexity,none": 7.5,
                "perplexity_stderr,none": "N/A",
            },
        },
        "versions": {"arc_easy": 1.0, "gsm8k": 3.0},
        "n-shot": {"arc_easy": 0, "gsm8k": 5},
        "higher_is_better": {
            "arc_easy": {"acc": True, "acc_norm": True},
            "gsm8k": {"exact_match": True, "perplexity": False},
        },
    }
    theirs = make_table(raw)
    read = read_text(theirs, "log.txt", "m")
    ours = "".join(today_table(suite) for suite in read.suites.values())
    head = [cell.strip() for cell in theirs.splitlines()[0].strip("|").split("|")]
    assert [cell.strip() for cell in ours.splitlines()[0].strip("|").split("|")] == head
    again = read_text(ours, "log.txt", "m")
    assert again.suites == read.suites
    gsm = read.suites["other"].tasks["gsm8k"]
    assert gsm is not None and gsm.n_shot == 5 and list(gsm.metrics) == ["exact_match (strict-match)", "perplexity"]
    assert gsm.metrics["perplexity"].higher_is_better is False
    assert "|gsm8k|3|strict-match|5|exact_match|↑|0.1250| | |" in ours


def test_names_of_strangers_cannot_break_a_table() -> None:
    read = read_csv('task,metric,value\n"lighteval|gsm8k|5","acc|x",0.5\n"two\nlines",acc,0.5\n', "x.csv", "m")
    table = tables(read)
    assert "|lighteval\\|gsm8k\\|5| |acc\\|x|0.5000| | |" in table and "|two lines| |acc|0.5000| | |" in table
    again = read_text(table, "x.md", "m").suites["other"]
    assert {name: list(task.metrics) for name, task in again.tasks.items() if task} == {
        "lighteval|gsm8k|5": ["acc|x"],
        "two lines": ["acc"],
    }


@pytest.mark.parametrize(
    ("value", "published", "verdict"),
    [(0.44205, "0.4421", True), (0.44205, "0.4364", False), (0.44205, "44.21", True), (0.44205, "0.44", True),
     (0.44205, "44.2", True), (0.44205, "0.443", False), (None, "0.4", None), (1.0, "1", True), (1.0, "100", True),
     (7.5, "7.5", True), (7.5, "750", False), (0.25, f"0.25{'0' * 40}", True)],
)  # fmt: skip
def test_a_published_average_is_held_to_its_own_decimals(
    value: float | None, published: str, verdict: bool | None
) -> None:
    assert agrees(Average(value=value, text="x"), published) is verdict


def test_the_command_prints_tables_averages_doubts_and_comparisons(tmp_path: Path) -> None:
    done = hubkit("card", "tables", str(SEED), "--published", "agieval=0.4364", home=tmp_path / "home")
    assert done.returncode == 0 and _cells(done.stdout) == _cells(SEED.read_text(encoding="utf-8"))
    assert "Note: 0.4364 was published." in done.stdout
    assert "is one a copy?" in done.stderr and "bigbench_navigate equals chance level (0.5000" in done.stderr
    other = tmp_path / "other.md"
    other.write_text(SEED.read_text(encoding="utf-8").replace("0.8357|±  |0.0037", "0.8057|±  |0.0037"))
    told = hubkit_json("card", "tables", str(SEED), str(other), home=tmp_path / "home")
    (suite,) = [item for item in told["comparisons"][0]["suites"] if item["name"] == "gpt4all"]
    (line,) = [item for item in suite["tasks"] if item["task"] == "hellaswag" and item["counts"]]
    assert line["value"] == pytest.approx(-0.03) and line["exceeds"] is True and line["better"] is False
    assert len(told["files"]) == 2 and told["files"][0]["suspicions"][0]["code"] == "chance"
    shown = hubkit("card", "tables", str(SEED), str(other), "--layout", "lm-eval-0.4", home=tmp_path / "home")
    assert "|hellaswag|acc_norm|0.8357|0.8057|-0.0300|±|0.0052|worse|" in shown.stdout
    assert "|Tasks|Version|Filter|n-shot|Metric| |Value| |Stderr|" in shown.stdout
    assert "## seed-tables, then other\n" in shown.stdout
    older = hubkit("card", "tables", str(SEED), str(other), "--layout", "today", home=tmp_path / "home")
    assert older.stdout == shown.stdout, "the older name of the layout"
    alike = hubkit("card", "tables", str(SEED), str(SEED), home=tmp_path / "home")
    assert "## seed-tables (data/seed-tables.md), then seed-tables (data/seed-tables.md)" in alike.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.json"], "The file nowhere.json does not exist."),
        ([str(SEED), "--published", "agi=0.4"], "There is no suite 'agi'"),
        ([str(SEED), "--published", "agieval=TBD"], "'TBD' is not a number"),
        ([str(SEED), "--published", "agieval"], "'' is not a number"),
        ([str(SEED), "--published", "agieval=inf"], "'inf' is not a number"),
        ([str(SEED), "--published", "agieval=."], "'.' is not a number"),
        ([str(SEED), str(SEED), "--published", "agieval=0.4"], "works with exactly one file"),
    ],
)
def test_what_the_command_cannot_use_is_one_sentence_and_code_two(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = hubkit("card", "tables", *arguments, home=tmp_path / "home")
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_a_comparison_tells_better_worse_and_noise() -> None:
    head = "|Task|Metric|Value| |Stderr|\n|---|---|---|---|---|\n"
    text = head + "|a|acc|{}|±|0.01|\n|b|acc|0.5|±|0.01|\n|c|acc|{}|±|0.01|\n"
    before, after = (read_text(text.format(*values), "x", "x") for values in (("0.5", "0.6"), ("0.6", "0.5")))
    verdicts = [line.split("|")[-2] for line in comparison_table(compare(before, after)).splitlines()[2:]]
    assert verdicts == ["better", "not significant", "worse", "not significant"]
    assert json.loads(compare(before, after).model_dump_json())["rule"].startswith("a difference is significant")
