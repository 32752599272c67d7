"""Lint names what is wrong with the text of a card, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lint_samples import FRONT, of

from hubkit.cards.lint import MAX_CARD_BYTES, lint_text
from hubkit.cards.lint.document import Document
from hubkit.cards.lint.harness_tables import means
from hubkit.cards.lint.suites import suites_of
from hubkit.core.findings import registered_rules

RULES = [name for name, rule in registered_rules().items() if "lint" in rule.used_by]


def test_every_rule_is_one_that_a_test_has_seen() -> None:
    """A rule that nothing can break is none: each name stands in one of these files."""
    own = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_lint*.py"))
    assert [rule for rule in RULES if f'"{rule}"' not in own] == []


# --- averages and headings

HARNESS = """
|    Task     |Version| Metric |Value |   |Stderr|
|-------------|------:|--------|-----:|---|-----:|
|arc_easy     |      0|acc     |0.8472|±  |0.0074|
|             |       |acc_norm|0.8321|±  |0.0077|
|boolq        |      1|acc     |0.8599|±  |0.0061|
"""


@pytest.mark.parametrize(
    ("stated", "faults"),
    [
        ("Average: 0.8460", 0),
        ("Average: 84.6%", 0),
        ("**Average:** 0.846", 0),
        ("Average: 0.8535", 0),  # of acc alone: another rule, and no mistake
        ("Average: 0.8500", 1),
        ("**GPT4All average = 85.0**", 1),
        ("Average score = 0.8500 ± 0.01", 1),
        ("Average score = 0.8460 ± 0.01", 0),
        ("The average family has 2.4 children.", 0),
        ("average 0.1 of something else that goes on", 0),
    ],
)
def test_stated_averages(stated: str, faults: int) -> None:
    for text in (f"{HARNESS}\n{stated}\n", f"```\n{HARNESS.strip()}\n```\n{stated}\n", f"{stated}\n\n{HARNESS}"):
        assert len(of(f"### GPT4All\n{text}", "average")) == faults, text
    assert len(of(f"{HARNESS}{stated}\n", "average")) == faults, "a last line of the table"


def test_a_figure_of_fifty_digits_is_rounded_as_any_other() -> None:
    table = (
        "## Scores\n\n| Model | AGIEval | GPT4All | TruthfulQA | Average |\n|---|---:|---:|---:|---:|\n"
        f"| the last | 44.21 | 74.22 | {'6' * 40}.98 | 58.47 |\n"
    )
    (fault,) = [item for item in lint_text(table) if item.rule == "average"]
    assert "2" * 25 in fault.message


def test_percent_is_answered_in_percent() -> None:
    (fault,) = of(f"{HARNESS}\nAverage: 85.00%\n", "average")
    assert fault.message.startswith("The average is given as 85.00, and its table gives 84.60 (")
    (fault,) = of(f"{HARNESS}\nAverage: 0.80\n", "average")
    assert "its table gives 0.8460" in fault.message


def test_an_average_is_that_of_its_own_section() -> None:
    other = HARNESS.replace("0.8599", "0.2000")
    assert not of(f"# A\n{HARNESS}\nAverage: 0.846\n\n# B\n{other}\nAverage: 0.5160\n", "average")
    (fault,) = of(f"# A\n{HARNESS}\nAverage: 0.846\n\n# B\n{other}\nAverage: 0.846\n", "average")
    assert "0.5161" in fault.message
    assert not of(f"# A\n{HARNESS}\n# Other\n\nAverage: 0.1\n", "average"), "no table of its own"


@pytest.mark.parametrize(
    "stated", ["- GPT4All: {}", "| Suite | Average |\n|---|---|\n| GPT4All | {} |", "**GPT4All** {}"]
)
def test_averages_of_a_suite_in_another_place(stated: str) -> None:
    summary = f"# Summary\n\n{stated}\n\n# GPT4All\n{HARNESS}"
    assert not of(summary.format("84.6"), "average")
    (fault,) = of(summary.format("85.6"), "average")
    assert "gives 84.60" in fault.message
    assert not of(f"{summary}\n# Another branch\n{HARNESS}".format("85.6"), "average"), "of which of the two?"
    assert not of(f"- GPT4All-J: 6\n- Tasks: 7\n- GPT4All has 7 tasks\n\n# GPT4All\n{HARNESS}", "average")


def test_averages_of_logs_that_were_pasted_in_a_hurry() -> None:
    """Shapes met in published logs: a header after the fence's marks, a table that begins there, lines run together."""
    body = HARNESS.strip()
    after = f"```hf-causal (pretrained=a/b), num_fewshot: 0\n{body}\n```\nAverage: {{}}\n"
    at_once = f"```{body}\n```\nAverage: {{}}\n"
    for text in (after, at_once):
        assert not of(text.format("84.60"), "average") and len(of(text.format("80.00"), "average")) == 1
    first, second, *rest = body.split("\n")
    together = "\n".join([first, second + "   " + rest[0], *rest[1:]])
    assert not of(f"```\n{together}\n```\nAverage: 10.0\n", "average"), "the first row is not seen"
    ran_on = "\n".join([first, second, rest[0] + "   " + rest[1], *rest[2:]])
    assert not of(f"```\n{ran_on}\n```\nAverage: 10.0\n", "average"), "the second row is not seen"
    other = f"```\n{body}\n```\nAverage: 0.846\n\nMT-Bench:\nFirst turn - 9.16\nAverage - 9.04"
    assert not of(other, "average"), "words stand between the two"


def test_classic_averages() -> None:
    metrics = (
        "|bigbench_navigate|0|multiple_choice_grade|0.5000|±|0.01|\n|bigbench_geometric_shapes|0|{}|0.2006|±|0.01|"
    )
    head = "|Task|Version|Metric|Value||Stderr|\n|---|---|---|---|---|---|\n"
    both = head + metrics.format("multiple_choice_grade") + "\n||0|exact_str_match|0.0724|±|0.01|\n"
    (table,) = Document.of(both).tables
    assert [mean.shown(4) for mean in means(table)] == ["0.3503"]
    truthful = head + "|truthfulqa_mc|1|mc1|0.3941|±|0.01|\n|||mc2|0.5698|±|0.01|\n"
    (table,) = Document.of(truthful).tables
    assert means(table)[0].shown(4) == "0.5698"


def test_rows_and_columns_of_averages() -> None:
    rows = "| Task | base | ours |\n|---|---:|---:|\n| a | 0.50 | 0.70 |\n| b | 0.70 | 0.90 |\n"
    rows += "| **Average** | 0.6 | {} |\n"
    assert not of(rows.format("**0.80**"), "average")
    (fault,) = of(rows.format("0.85"), "average")
    assert fault.line == 8 and "the column 'ours' gives 0.8" in fault.message
    rescaled = rows.replace("| a |", "| leaderboard_bbh |").replace("| b |", "| leaderboard_gpqa |")
    assert not of(rescaled.format("0.33"), "average"), "not a mean of what stands there"
    alone = "| Task | Score |\n|---|---|\n| a | 0.70 |\n| Average | 0.71 |\n"
    assert not of(alone.replace("0.71", "0.70"), "average") and len(of(alone.replace("0.71", "0.75"), "average")) == 1
    columns = "| Model | Params | X | Y | Average |\n|---|---|---|---|---|\n"
    columns += "| m | 7 | 10.0 | 20.0 | {} |\n| n | 7 | - | 20 | 20 |\n"
    assert not of(columns.format("15.0"), "average")
    assert len(of(columns.format("16.0"), "average")) == 1


@pytest.mark.parametrize(
    "table",
    [
        "|Model|MMLU|GSM8K|Average|tok/s|\n|-|-|-|-|-|\n|m|60.0|50.0|55.0|120|",
        "|Model|MMLU|GSM8K|Average|Wh|\n|-|-|-|-|-|\n|m|60.0|50.0|55.0|120|",
        "|Model|W|MMLU|GSM8K|Average|\n|-|-|-|-|-|\n|m|300|60.0|50.0|55.0|",
        "|Model|A|B|Average|C|D|Average|\n|-|-|-|-|-|-|-|\n|m|10|20|15|30|40|35|",
        "|Task|m|\n|-|-|\n|a|10.0|\n|b|20.0|\n|Average|15.0|\n|c|30.0|\n|d|50.0|\n|Average|40.0|",
        "|Task|m|\n|-|-|\n|Average|15.0|\n|a|10.0|\n|b|20.0|\n|Average|40.0|\n|c|30.0|\n|d|50.0|",
        "|Task|bf16|w4|Recovery|\n|-|-|-|-|\n|a|50.0|40.0|80.0|\n|b|10.0|9.0|90.0|\n|Average|30.0|24.5|81.7|",
    ],
)
def test_averages_of_a_part_of_a_table(table: str) -> None:
    assert not of(table, "average")


def test_wrong_averages_of_blocks() -> None:
    rows = "|Task|m|\n|-|-|\n|a|10.0|\n|b|20.0|\n|Average|15.0|\n|c|30.0|\n|d|50.0|\n|Average|44.0|"
    (fault,) = of(rows, "average")
    assert fault.line == 11 and "gives 40.0 (mean of the rows since the last average)" in fault.message
    assert of("|Model|MMLU|GSM8K|Average|tok/s|\n|-|-|-|-|-|\n|m|60.0|50.0|58.0|120|", "average")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("|Model|GPT4All|TruthfulQA|\n|-|-|-|\n|other|70.1|50.2|\n|ours|85.60|56.98|", 1),
        ("|Model|GPT4All|TruthfulQA|\n|-|-|-|\n|other|70.1|50.2|\n|ours|84.60|56.98|", 0),
        ("|Model|GPT4All|TruthfulQA|\n|-|-|-|\n|other|70.1|50.2|", 0),
        ("We reach an average of 0.856 on GPT4All.", 1),
        ("We reach an average of 0.846 on GPT4All.", 0),
        ("The old model reached an average of 0.856 on GPT4All.", 0),
    ],
)
def test_averages_of_suites_told_elsewhere(text: str, faults: int) -> None:
    truthful = "# TruthfulQA\n\n|Task|Metric|Value|\n|-|-|-|\n|truthfulqa_mc|mc2|0.5698|\n"
    assert len(of(f"# Summary\n\n{text}\n\n# GPT4All\n{HARNESS}\n{truthful}", "average")) == faults


def test_headings_of_tables() -> None:
    assert not of(f"### GPT4All\n{HARNESS}", "table-heading")
    assert len(of(f"### TruthfulQA\n{HARNESS}", "table-heading")) == 1
    assert len(of(f"### All\n\nTruthfulQA:\n\n```\n{HARNESS.strip()}\n```\n", "table-heading")) == 1
    assert not of(f"### AGIEval, GPT4All and TruthfulQA\n{HARNESS}", "table-heading")
    assert not of(f"### What it is\n{HARNESS}", "table-heading")
    assert suites_of("agieval_lsat_ar") == {"agieval"} and suites_of("anything") == set()
    assert suites_of("truthfulqa_mc") == {"truthfulqa", "openllm"} == suites_of("truthfulqa_mc2")


# --- words


@pytest.mark.parametrize(
    "text",
    [
        "Scores: TBD",
        "| a | b |\n|---|---|\n| x | xx.xx |",
        "[More Information Needed]",
        "MMLU: ???",
        "| a | b |\n|---|---|\n| x | ??? |",
        "Scores: tbd",
        "Benchmarks coming soon.",
        *(f"| a | b |\n|---|---|\n| x | 0.5 |\n| y | {cell} |" for cell in ("XX", "*pending*", "Coming soon")),
    ],
)
def test_placeholders(text: str) -> None:
    assert len(of(text, "placeholder")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "`TBD` in code",
        "```\nTODO: x\n```",
        "It writes a TODO list for you.",
        "Really??",
        "It needs transformers 4.x.x.",
        "Do you want another model??? Ask.",
        "a/tbd-model",
        "| State | Says |\n|---|---|\n| pending | it waits |",
    ],
)
def test_no_placeholders(text: str) -> None:
    assert not of(text, "placeholder")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It lies in /home/anna/out.", True),
        ("```python\nload('/Users/anna/model')\n```", True),
        (r"Saved to C:\Users\anna\model", True),
        ("python prepare.py --out ~/data/x", False),
        ("docker run -v ~/.cache/huggingface:/root/.cache/huggingface x", False),
        ("See https://example.org/home/anna/x and /path/to/model, in /tmp/x.", False),
        ("```python\ndrive.mount('/content/drive')\n```", False),
        ("Saved to /content/drive/MyDrive/anna/model.", True),
        ("It goes to /home/<username>/models.", False),
        (r"It goes to C:\Users\YourName\models.", False),
        ("docker run -v /mnt/models:/models x", False),
        ("docker run -v /home/anna/models:/models x", True),
    ],
)
def test_local_paths(text: str, found: bool) -> None:
    assert bool(of(text, "local-path")) is found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The repair lowered benchmark scores a bit.", True),
        ("Benchmark scores dropped after the\nsecond training.", True),
        ("The repair lowered the average score from 0.52 to 0.49.", False),
        ("Scores fell.\n\n| Task | v0 | v1 |\n|---|---|---|\n| a | 0.5 | 0.4 |", False),
        (f"Scores fell.\n{HARNESS}", True),
        (f"Scores fell.\n\n# v0\n{HARNESS}\n# v1\n{HARNESS}", False),
        ("Lower the temperature for better answers.", False),
        ("A reward is lower when the evaluation is stricter; training time drops.", False),
        ("At the cost of some benchmark scores it stops.", True),
        ("This came at the expense of some benchmark results.", True),
        ("It lowers latency on our benchmark hardware.", False),
        ("Our benchmarks show lower latency.", False),
    ],
)
def test_scores_that_are_only_told_about(text: str, found: bool) -> None:
    assert bool(of(text, "scores-not-shown")) is found


# --- links


def test_links_and_pictures() -> None:
    text = (
        "[a](docs/a.md) [b](./b%20c.md#part) ![p](img/p.png) [x](https://example.org/x) [top](#top) [site](/datasets/x)"
        "\n\n"
        '<p align="center"><img src="img/none.png"><a href="docs">d</a></p>\n\n'
        "| [dead](gone.txt) |\n|---|\n\n[up](../other.md) [mail](mailto:a@b.c)\n"
    )
    files = {"README.md", "docs/a.md", "b c.md", "img/p.png"}
    found = of(text, "dead-link", files=files)
    assert [fault.message.split("'")[1] for fault in found] == ["img/none.png", "gone.txt", "../other.md"]
    assert [fault.line for fault in found] == [6, 8, 11]
    assert not of(text, "dead-link"), "without a folder nothing is known of files"
    assert not [
        f
        for f in lint_text("[r](../README.md)", files | {"adapter/README.md"}, "adapter/README.md")
        if f.rule == "dead-link"
    ]


def test_a_footnote_is_no_link() -> None:
    text = "MMLU[^1] and [that][1]\n\n[^1]: 5-shot\n[^2]: 0-shot\n\n[1]: gone.txt\n"
    (fault,) = of(text, "dead-link", files={"README.md"})
    assert "'gone.txt'" in fault.message


# --- snippets


def code(source: str) -> str:
    return f"```python\n{source}\n```\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("t = tok.apply_chat_template(m)\nmodel.generate(t)", ["generation-prompt", "template-result"]),
        ("t = tok.apply_chat_template(m, add_generation_prompt=False)\nmodel.generate(**t)",
         ["generation-prompt", "template-result"]),
        ("t = tok.apply_chat_template(m, add_generation_prompt=True, return_dict=True).to(d)\nmodel.generate(**t)", []),
        ("t = tok.apply_chat_template(m, add_generation_prompt=True, return_dict=False)\nmodel.generate(**t)",
         ["template-result"]),
        ("t = tok.apply_chat_template(m, add_generation_prompt=True, return_dict=False)\nmodel.generate(t)", []),
        ("t = tok.apply_chat_template(m, tokenize=False)\nprint(t)", []),
        ("t = tok.apply_chat_template(m, continue_final_message=True, return_dict=True)\nmodel.generate(**t)", []),
        ("t = tok.apply_chat_template(m, add_generation_prompt=True)\nt = tok(text=t)\nmodel.generate(**t)", []),
        ("t = tok.apply_chat_template(m, add_generation_prompt=True)\nt = t.to(d)\nmodel.generate(**t)",
         ["template-result"]),
    ],
)  # fmt: skip
def test_chat_prompts(source: str, found: list[str]) -> None:
    text = FRONT + code(f"tok = model = m = d = None\n{source}")
    assert sorted(fault.rule for fault in lint_text(text)) == found


def test_names_and_syntax() -> None:
    text = (
        code("a = 1")
        + "\n"
        + code("print(a, b)")
        + "\n"
        + code("def f(:")
        + "\n"
        + code("!pip install x\nimport os\nos.name")
    )
    found = lint_text(FRONT + text)
    assert [(fault.rule, fault.line) for fault in found] == [("snippet-syntax", 13), ("undefined-name", 9)]
    assert "'b'" in found[1].message and found[1].hint == "Define it in the block, or import it."


@pytest.mark.parametrize("first", ["from x import *", "a = (", "!pip install x\nprint("])
def test_names_that_an_earlier_block_may_define(first: str) -> None:
    assert not of(f"{code(first)}\n{code('print(b)')}", "undefined-name")


def test_names_that_notebooks_have() -> None:
    assert not of(code("!pip install x\nim = 1\ndisplay(im)"), "undefined-name")
    assert len(of(code("im = 1\ndisplay(im)"), "undefined-name")) == 1


PIECES = st.sampled_from(
    [
        "---\n", "|a|b|\n|-|-|\n", "|Average|0.5|\n", "```python\n", "```\n", "Average: 0.5\n", "# GPT4All\n", "![](x)",
        "license: mit\n", "|Task|Metric|Value|\n|-|-|-|\n", "|arc_easy|acc|0.5|\n", "\x00", "é±", "(" * 300, "x = 1\n",
        "<a href=", "- ",
    ]
) | st.text(max_size=20)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_looked_at(text: str) -> None:
    lines = text.count("\n") + len(text.splitlines()) + 1
    for fault in lint_text(text, {"README.md"}):
        assert fault.rule in RULES and 1 <= fault.line <= lines and fault.message and fault.hint


TABLE = "|Task|Metric|Value|\n|-|-|-|\n|arc_easy|acc|0.9|\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [
        "<div>\n" + "<a " * 95_000,
        "<div>\n" + "<!--" * 70_000,
        "<div>\n" + "<a href='" * 30_000,
        f"{TABLE}\nAverage: 0.5\n\n" * 4500,
        f"{TABLE}\n" + "Average: 0.5\n\n" * 19_000,
        TABLE + "|arc_easy|acc|0.9|\n" * 5000 + "\n" + "Average: 0.5\n\n" * 12_000,
        "```\n" + "\n" * 290_000 + "```\n",
        "|Task|x|\n|-|-|\n" + "|a|0.5|\n" * 12_000 + "|Average|0.1|\n" * 12_000,
        "|a|Average|\n|-|-|\n|1|1(" + ")" * 280_000 + "a|\n",
        "".join("`" * n + "\n|a|b|\n|-|-|\n" for n in range(650, 2, -1)),
        "---\nlicense: mit\n" + "".join(f"k{n}:\n" for n in range(38_000)) + "---\n",
        "```python\n" + "\n".join(f"a{n}" for n in range(35_000)) + "\n```\n",
    ],
    ids=lambda text: text[:12].strip(),
)
def test_a_hostile_card_takes_no_longer_than_another(text: str) -> None:
    """Each took minutes when the time went with the square of the length, or went too deep."""
    assert len(text) <= MAX_CARD_BYTES
    for fault in lint_text(text if text.startswith("---") else FRONT + text, {"README.md"}):
        assert fault.rule in {"average", "undefined-name"}


@pytest.mark.parametrize(
    "block",
    [
        'generator = pipeline("text-generation", model="None", device="cuda")',
        'model = AutoModelForCausalLM.from_pretrained("None")',
    ],
)
def test_a_block_that_loads_the_model_none_is_found(block: str) -> None:
    start = "from transformers import AutoModelForCausalLM, pipeline\n"
    assert [fault.rule for fault in of(code(start + block), "model-none")] == ["model-none"]
    assert not of(code(start + block.replace('"None"', '"me/model"')), "model-none")


def test_every_error_says_who_refuses_it() -> None:
    """An error is what the Hub, a library or Python refuses, and the rule says where that is documented."""
    errors = {rule.id: rule for rule in registered_rules().values() if rule.level == "error" and "lint" in rule.used_by}
    assert set(errors) == {"adapter-at-root", "base-model", "model-none", "snippet-syntax", "template-result"}
    assert [name for name in [*errors, "front-matter"] if not registered_rules()[name].evidence] == []


def test_a_list_of_things_to_do_is_no_placeholder() -> None:
    assert not of("## TODO\n\n- Train it longer.\n", "placeholder")
    assert of("## Scores\n\nTODO\n", "placeholder")


def test_what_works_with_a_version_of_transformers_is_advice() -> None:
    block = "t = tok.apply_chat_template(m, add_generation_prompt=True{})\nmodel.generate({}t)"
    start = "tok = model = m = None\n"
    levels = {
        (more, stars): [fault.level for fault in of(code(start + block.format(more, stars)), "template-result")]
        for more in ("", ", return_dict=False", ", return_dict=True")
        for stars in ("", "**")
    }
    assert levels == {
        ("", ""): ["error"], ("", "**"): ["note"],
        (", return_dict=False", ""): [], (", return_dict=False", "**"): ["error"],
        (", return_dict=True", ""): ["error"], (", return_dict=True", "**"): [],
    }  # fmt: skip


def test_a_session_that_was_pasted_in_part_is_no_error() -> None:
    (fault,) = of(code(">>> for a in b:\n    print(a)\n>>> a"), "snippet-syntax")
    assert fault.level == "warning"
    (fault,) = of(code("for a in b:\nprint(a)"), "snippet-syntax")
    assert fault.level == "error"


def test_the_line_of_an_undefined_name_is_not_that_of_a_parameter() -> None:
    (fault,) = of(code("def f(question):\n    return question\n\nprint(f(question))"), "undefined-name")
    assert fault.line == 8
