"""Averages as real cards have them: by which rules they come out right, which are left alone, which are wrong."""

from __future__ import annotations

import pytest
from lint_samples import of


def table(head: str, *rows: str) -> str:
    heads = head.split("|")
    return "\n".join(f"|{line}|" for line in (head, "|".join("-" for _ in heads), *rows))


GEOMETRIC = table("Model|Law|Sport|Trade|Average", "ours|20.0|40.0|10.0|20.0", "theirs|8.00|2.00|4.00|4.00")
OUT_OF_TEN = table(
    "Model|# Params|Average|MT-Bench|HumanEval|GSM8K", "ours|7B|64.2|7.81|55.5|59.1", "theirs|7B|48.1|7.34|22.0|49.0"
)
SAME_NAME = table("MMLU 0-shot|MMLU 5-shot|GSM Direct|GSM CoT|Average", "44.0|48.0|6.0|28.0|31.5")
WEIGHTED = table("Task|Questions|ours", "a|100|50.0", "b|300|70.0", "Average||65.0")
HTML = (
    "<table>\n<tr><th>Model</th><th>ARC</th><th>MMLU</th><th>Average</th></tr>\n\n"
    "<tr><td>ours</td><td>60.0</td><td>80.0</td><td><b>{}</b></td></tr>\n</table>\n"
)


@pytest.mark.parametrize(
    "text",
    [
        GEOMETRIC,
        OUT_OF_TEN,
        SAME_NAME,
        WEIGHTED,
        table("Model|ARC|HellaSwag|MMLU (5-shot)|Average", "m|60.0|80.0|40.0|60.0"),
        table("Model|date_understanding|sample_sort|context_qa|Avg. ↑", "m|60.0|80.0|40.0|60.0"),
        table("Model|Params (B)|Max context|Training tokens|A|B|Average", "m|7|4096|300|60.0|80.0|70.0"),
        table("Model|Min|Max|Average", "m|10.0|80.0|31.0"),
        table("Model|A|B|Avg.|Avg. (Hard)", "m|60.0|80.0|70.0|31.0"),
        HTML.format("70.0"),
    ],
    ids=lambda text: text.split("\n")[0][:50],
)
def test_averages_that_a_rule_gives(text: str) -> None:
    assert not of(text, "average")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (GEOMETRIC.replace("20.0|20.0", "20.0|31.0").replace("10.0|20.0", "10.0|31.0"), "23.3"),
        (OUT_OF_TEN.replace("64.2", "69.0"), "57.3"),
        (SAME_NAME.replace("31.5", "39.0"), "31.5"),
        (WEIGHTED.replace("65.0", "68.0"), "60.0"),
        (table("Model|ARC (25-shot)|HellaSwag (10-shot)|MMLU (5-shot)|Average", "m|60.0|80.0|40.0|75.0"), "60.0"),
        (HTML.format("75.0"), "70.0"),
    ],
    ids=lambda text: text.split("\n")[0][:50],
)
def test_averages_that_no_rule_gives(text: str, shown: str) -> None:
    (fault,) = of(text, "average")
    assert f"gives {shown}" in fault.message and fault.level == "warning"


def test_averages_over_subjects_count_what_the_card_does_not_show() -> None:
    head, row = "Model|STEM|Social Science|Humanities|Others|Avg.", "m|38.9|49.7|45.0|40.8|{}"
    assert not of(table(head, row.format("42.6")), "average")
    weighed = f"### C-Eval\n\n{table('Model|Easy|Hard|Avg.', 'm|40.0|20.0|35.0')}"
    assert not of(weighed, "average") and of(weighed.replace("C-Eval", "Scores"), "average")
    overall = "Model|overall|easy|hard|short|medium", "m|53.7|100.0|25.1|47.2|59.1", "n|60.0|60.0|60.0|60.0|60.0"
    assert not of(table(*overall), "average"), "as LongBench has it"


def test_a_table_of_which_most_lines_fit_no_rule_is_left_alone() -> None:
    head = "Model|A|B|C|Average"
    odd = ["m|10.0|20.0|60.0|25.0", "n|20.0|30.0|70.0|35.0", "o|30.0|40.0|80.0|45.0"]
    assert not of(table(head, *odd), "average")
    right = ["m|10.0|20.0|60.0|30.0", "n|20.0|30.0|70.0|40.0", "o|30.0|40.0|80.0|45.0"]
    (fault,) = of(table(head, *right), "average")
    assert "The average is given as 45.0, and the row 'o' gives 50.0" in fault.message


AUTO = """
### agieval
|      Task      |Version| Metric |Value|   |Stderr|
|----------------|------:|--------|----:|---|-----:|
|agieval_aqua_rat|      0|acc_norm|10.00|±  |  2.52|
|agieval_sat_math|      0|acc_norm|30.00|±  |  3.24|

Average: 20.0%

### truthfulqa
|    Task     |Version|Metric|Value|   |Stderr|
|-------------|------:|------|----:|---|-----:|
|truthfulqa_mc|      1|mc1   |36.00|±  |  1.69|
|             |       |mc2   |60.00|±  |  1.54|

Average: 60.0%

Average score: {}%
"""


def test_the_average_of_averages_at_the_end_of_a_card() -> None:
    """llm-autoeval ends a card with the mean of the suites' averages above it."""
    assert not of(AUTO.format("40.0"), "average")
    (fault,) = of(AUTO.format("45.0"), "average")
    assert fault.line == 21 and "and the mean of the averages above it gives 40.0" in fault.message


def test_an_average_over_all_tables_below_the_first_of_them() -> None:
    text = AUTO.replace("Average: 20.0%", "Average: 33.3%").replace("Average: 60.0%\n\nAverage score: {}%\n", "")
    assert not of(text, "average"), "(10 + 30 + 60) / 3"
    assert of(text.replace("33.3", "36.3"), "average")


def test_rows_that_are_suites_are_no_tasks_of_another_suite() -> None:
    summary = table("Bench|base|ours", "GPT4All|73.1|74.7", "BigBench|41.0|44.8", "TruthfulQA|53.0|55.9")
    assert not of(f"GPT4All:\n\n{summary}\n", "table-heading")
    task = "|Task|Metric|Value|\n|-|-|-|\n|truthfulqa_mc|mc2|0.55|\n"
    assert of(f"### GPT4All\n\n{task}", "table-heading")
