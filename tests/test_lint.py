"""Lint names what is wrong with a card, line by line, and finds nothing on ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from commands import hubkit
from hypothesis import given, settings
from hypothesis import strategies as st
from releases import target_of

from hubkit.cards import ADAPTER_CARD, MODEL_CARD, build_context, draw, render_card
from hubkit.chat import CHATML
from hubkit.checkup import FolderSource, RepoSource
from hubkit.hub import Hub, connect
from hubkit.lint import RULES, Fault, lint, lint_text
from hubkit.lint.document import Document
from hubkit.lint.scores import means, suites_of
from hubkit.server.process import Running

CARDS = Path(__file__).with_name("lint_cards")
FRONT = "---\nlicense: apache-2.0\n---\n"
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def folder(place: Path, card: str, template: str | None = CHATML, **files: str) -> Path:
    """A folder as authors publish it; a file's name is written with '__' for '.'."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "README.md").write_text(card, encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "<s>"}))
    for name, text in files.items():
        path = place / name.replace("__", ".").replace("_of_", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return place


def with_base(hub: Running, home: Path, repo: str, licence: str) -> Hub:
    connected = connect(target_of(hub, home))
    connected.ensure_repo(repo, "public")
    connected.api.upload_file(
        path_or_fileobj=f"---\nlicense: {licence}\n---\n# Base\n".encode(), path_in_repo="README.md", repo_id=repo
    )
    return connected


def rules(faults: Any) -> dict[str, list[int]]:
    """Lines by rule."""
    found: dict[str, list[int]] = {}
    for fault in faults:
        found.setdefault(fault.rule, []).append(fault.line)
    return found


def of(text: str, rule: str, **more: Any) -> list[Fault]:
    return [fault for fault in lint_text(FRONT + text, **more) if fault.rule == rule]


# --- the two cards of the field, in our own words


def test_every_fault_of_the_seeds_card_is_named(hub: Running, tmp_path: Path) -> None:
    connected = with_base(hub, tmp_path, "hubkit/lint-base", "apache-2.0")
    text = (CARDS / "seed.md").read_text(encoding="utf-8")
    merged = {"config__json": "{}", "model__safetensors": "", "adapter_config__json": "{}"}
    report = lint(FolderSource(folder(tmp_path / "seed", text, ZEPHYR, **merged)), connected)
    lines = text.splitlines()

    def line(part: str) -> int:
        return next(number for number, said in enumerate(lines, 1) if part in said)

    assert rules(report.faults) == {
        "adapter-at-root": [1],
        "licence-mismatch": [line("license: mit")],
        "dead-link": [line("header.png")],
        "scores-not-shown": [line("An adapter trained")],
        "template-differs": [line("ChatML, and a system message"), line("<|im_start|>system")],
        "undefined-name": [line("apply_chat_template(message,")],
        "generation-prompt": [line("apply_chat_template(message,")],
        "template-result": [line("generate(**gen_input)")],
        "average": [line("0.4364")],
    }
    by_rule = {fault.rule: fault for fault in report.faults}
    assert "0.4364, and its table gives 0.4421" in by_rule["average"].what
    assert by_rule["undefined-name"].todo == "Write 'messages', which is defined."
    assert "'mit', and that of the base hubkit/lint-base is 'apache-2.0'" in by_rule["licence-mismatch"].what
    assert report.unchecked == ()


def test_every_fault_of_its_successors_card_is_named(tmp_path: Path) -> None:
    text = (CARDS / "successor.md").read_text(encoding="utf-8")
    report = lint(FolderSource(folder(tmp_path / "next", text, None)))
    assert set(rules(report.faults)) == {
        "base-model", "base-relation", "local-path", "dead-link", "snippet-syntax", "table-heading", "placeholder",
        "average", "template-missing",
    }  # fmt: skip
    found = rules(report.faults)
    assert len(found["local-path"]) == 2 and len(found["placeholder"]) == 2
    (heading,) = (fault for fault in report.faults if fault.rule == "table-heading")
    assert "under 'TruthfulQA', and its task arc_challenge is one of GPT4All" in heading.what
    assert report.unchecked == ("The base and its licence were not looked up: there is no Hub to ask.",)


@pytest.mark.parametrize("variant", ["main", "dpo-v0"])
@pytest.mark.parametrize("which", [MODEL_CARD, ADAPTER_CARD])
def test_nothing_is_found_on_our_own_cards(variant: str, which: str, tmp_path: Path, hub: Running) -> None:
    context = build_context(samples.recipe(), variant, samples.evidence())
    text = render_card(context, which).text
    assert lint_text(text) == []
    connected = with_base(hub, tmp_path, "me/tiny", "apache-2.0")
    files = {"config__json": "{}", "model__safetensors": "", "adapter_of_adapter_config__json": "{}"}
    place = folder(tmp_path / "ours", text, CHATML, **files)
    for path in draw(context):
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_bytes(b"")
    report = lint(FolderSource(place), connected)
    assert [fault for fault in report.faults if which == MODEL_CARD or fault.rule != "base-relation"] == []
    assert report.unchecked == ()


def test_every_rule_is_one_that_a_test_has_seen() -> None:
    """A rule that nothing can break is none: each name stands in this file."""
    own = Path(__file__).read_text(encoding="utf-8")
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
        ("The average family has 2.4 children.", 0),
        ("average 0.1 of something else that goes on", 0),
    ],
)
def test_stated_averages(stated: str, faults: int) -> None:
    for text in (f"{HARNESS}\n{stated}\n", f"```\n{HARNESS.strip()}\n```\n{stated}\n", f"{stated}\n\n{HARNESS}"):
        assert len(of(f"### GPT4All\n{text}", "average")) == faults, text
    assert len(of(f"{HARNESS}{stated}\n", "average")) == faults, "a last line of the table"


def test_percent_is_answered_in_percent() -> None:
    (fault,) = of(f"{HARNESS}\nAverage: 85.00%\n", "average")
    assert fault.what.startswith("The average is given as 85.00, and its table gives 84.60 (")
    (fault,) = of(f"{HARNESS}\nAverage: 0.80\n", "average")
    assert "its table gives 0.8460" in fault.what


def test_an_average_is_that_of_its_own_section() -> None:
    other = HARNESS.replace("0.8599", "0.2000")
    assert not of(f"# A\n{HARNESS}\nAverage: 0.846\n\n# B\n{other}\nAverage: 0.5160\n", "average")
    (fault,) = of(f"# A\n{HARNESS}\nAverage: 0.846\n\n# B\n{other}\nAverage: 0.846\n", "average")
    assert "0.5161" in fault.what
    assert not of(f"# A\n{HARNESS}\n# Other\n\nAverage: 0.1\n", "average"), "no table of its own"


@pytest.mark.parametrize(
    "stated", ["- GPT4All: {}", "| Suite | Average |\n|---|---|\n| GPT4All | {} |", "**GPT4All** {}"]
)
def test_averages_of_a_suite_in_another_place(stated: str) -> None:
    summary = f"# Summary\n\n{stated}\n\n# GPT4All\n{HARNESS}"
    assert not of(summary.format("84.6"), "average")
    (fault,) = of(summary.format("85.6"), "average")
    assert "gives 84.60" in fault.what
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
    assert fault.line == 8 and "the column 'ours' gives 0.8" in fault.what
    rescaled = rows.replace("| a |", "| leaderboard_bbh |").replace("| b |", "| leaderboard_gpqa |")
    assert not of(rescaled.format("0.33"), "average"), "not a mean of what stands there"
    alone = "| Task | Score |\n|---|---|\n| a | 0.70 |\n| Average | 0.71 |\n"
    assert not of(alone.replace("0.71", "0.70"), "average") and len(of(alone.replace("0.71", "0.75"), "average")) == 1
    columns = "| Model | Params | X | Y | Average |\n|---|---|---|---|---|\n"
    columns += "| m | 7 | 10.0 | 20.0 | {} |\n| n | 7 | - | 20 | 20 |\n"
    assert not of(columns.format("15.0"), "average")
    assert len(of(columns.format("16.0"), "average")) == 1


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
    "text", ["Scores: TBD", "| a | b |\n|---|---|\n| x | xx.xx |", "[More Information Needed]", "MMLU: ???"]
)
def test_placeholders(text: str) -> None:
    assert len(of(text, "placeholder")) == 1


@pytest.mark.parametrize("text", ["`TBD` in code", "```\nTODO: x\n```", "It writes a TODO list for you.", "Really??"])
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
    assert [fault.what.split("'")[1] for fault in found] == ["img/none.png", "gone.txt", "../other.md"]
    assert [fault.line for fault in found] == [6, 8, 11]
    assert not of(text, "dead-link"), "without a folder nothing is known of files"
    assert not [
        f
        for f in lint_text("[r](../README.md)", files | {"adapter/README.md"}, "adapter/README.md")
        if f.rule == "dead-link"
    ]


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
    ],
)  # fmt: skip
def test_chat_prompts(source: str, found: list[str]) -> None:
    text = FRONT + code(f"tok = model = m = d = None\n{source}")
    assert [fault.rule for fault in lint_text(text)] == found


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
    assert [(fault.rule, fault.line) for fault in found] == [("undefined-name", 9), ("snippet-syntax", 13)]
    assert "'b'" in found[0].what and found[0].todo == "Define it in the block, or import it."


# --- front matter, files, template


def test_front_matter() -> None:
    found = lint_text("# No front matter\n")
    assert [fault.rule for fault in found] == ["licence-missing"]
    found = lint_text("---\nlicense: nonsense\nbase_model: {a: b}\ntags: 3\n---\n")
    assert [(fault.rule, fault.line) for fault in found] == [
        ("front-matter", 2), ("base-model", 3), ("front-matter", 4),
    ]  # fmt: skip
    assert all(len(fault.what) < 400 for fault in found)
    (fault,) = lint_text("---\nlicense: other\n---\n")
    assert fault.rule == "front-matter" and "needs 'license_name'" in fault.what
    assert [fault.rule for fault in lint_text("---\nlicense: [mit, {a: b}]\n---\n")] == ["front-matter"]
    assert lint_text("---\nlicense: !!int x\n---\n")[0].rule == "front-matter"
    assert lint_text("---\na: [\n---\n")[0].rule == "front-matter"


def test_the_kind_of_weights() -> None:
    card = "---\nlicense: mit\nbase_model_relation: {}\n---\n"
    whole, adapter = {"README.md", "config.json", "model.safetensors"}, {"README.md", "adapter_config.json"}
    assert not lint_text(card.format("finetune"), whole) and not lint_text(card.format("adapter"), adapter)
    for relation, files in (("adapter", whole), ("merge", adapter)):
        (fault,) = lint_text(card.format(relation), files)
        assert (fault.rule, fault.line) == ("base-relation", 3)


SHOWN = "\n```\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n```\n"


@pytest.mark.parametrize(
    ("text", "template", "found"),
    [
        (SHOWN, CHATML, []),
        (SHOWN, "{{ bos_token }}" + CHATML, []),
        (SHOWN, ZEPHYR, ["template-differs"] * 1),
        (SHOWN.replace("<|im_end|>\n", "<|im_end|>\n\n"), CHATML, ["template-differs"]),
        ("It speaks ChatML.", CHATML, []),
        ("It speaks ChatML.", ZEPHYR, ["template-differs"]),
        ("```\n[INST] {prompt} [/INST]\n```", ZEPHYR, ["template-differs"]),
        ("It speaks ChatML.", None, ["template-missing"]),
        ("It says nothing.", None, []),
        ("It speaks ChatML.", "{{ raise_exception('no') }}", ["template-differs"]),
        ("x", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", ["template-differs"]),
    ],
)
def test_templates(tmp_path: Path, text: str, template: str | None, found: list[str]) -> None:
    report = lint(FolderSource(folder(tmp_path / "m", FRONT + text, template)))
    assert [fault.rule for fault in report.faults] == found, report.faults


# --- the command


def test_the_command(hub: Running, tmp_path: Path) -> None:
    sound = folder(tmp_path / "sound", FRONT + "# Fine\n")
    given = {"home": tmp_path / "home", "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
    done = hubkit("card", "lint", str(sound), **given)  # type: ignore[arg-type]
    assert done.returncode == 0 and "no fault was found" in done.stdout
    done = hubkit("card", "lint", str(CARDS / "successor.md"), "--json", **given)  # type: ignore[arg-type]
    said = json.loads(done.stdout)
    assert done.returncode == 3 and said["clean"] is False
    assert set(said["faults"][0]) == {"rule", "path", "line", "what", "todo"}
    assert "stands alone" in said["unchecked"][0]
    done = hubkit("card", "lint", str(CARDS / "seed.md"), **given)  # type: ignore[arg-type]
    assert done.returncode == 3 and "seed.md:69: average: " in done.stdout
    assert "The base hubkit/lint-base is not on this Hub." in done.stdout
    for what, words in (
        ("./none", "There is no file or folder"),
        ("none.md", "There is no file"),
        ("x y", "not a repo id"),
    ):
        done = hubkit("card", "lint", what, **given)  # type: ignore[arg-type]
        assert done.returncode == 2 and words in done.stderr
    done = hubkit("card", "lint", str(CARDS / "seed.md"), home=tmp_path / "home")
    assert "Not checked: The base and its licence were not looked up" in done.stdout, "no Hub runs"


@pytest.mark.parametrize(
    ("own", "base", "found"),
    [
        ("mit", "mit", []),
        ("mit", "cc-by-nc-4.0", ["licence-mismatch"]),
        ("other\nlicense_name: llama3", "other\nlicense_name: llama3", []),
        ("other\nlicense_name: mine", "other\nlicense_name: llama3", ["licence-mismatch"]),
    ],
)
def test_licences_of_the_base(hub: Running, tmp_path: Path, own: str, base: str, found: list[str]) -> None:
    connected = with_base(hub, tmp_path, "me/base", base)
    text = f"---\nlicense: {own}\nbase_model: [me/base]\n---\n"
    report = lint(FolderSource(folder(tmp_path / "m", text)), connected)
    assert [fault.rule for fault in report.faults] == found


def test_a_repo_is_read_at_its_revision(hub: Running, tmp_path: Path) -> None:
    connected = with_base(hub, tmp_path, "me/mine", "mit")
    assert lint(RepoSource(connected, "me/mine", "main"), connected).faults == ()
    connected.create_branch("me/mine", "old", connected.resolve("me/mine", "main"))
    text = b"---\nlicense: mit\nbase_model: me/nothing\n---\nScores: TBD\n"
    connected.api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id="me/mine", revision="old")
    connected.api.upload_file(
        path_or_fileobj=b"# a\n", path_in_repo="adapter/README.md", repo_id="me/mine", revision="old"
    )
    report = lint(RepoSource(connected, "me/mine", "old"), connected)
    assert [(fault.path, fault.rule) for fault in report.faults] == [
        ("README.md", "base-model"), ("README.md", "placeholder"), ("adapter/README.md", "licence-missing"),
    ]  # fmt: skip
    bare = tmp_path / "bare"
    bare.mkdir()
    assert [fault.rule for fault in lint(FolderSource(bare)).faults] == ["no-card"]


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
        assert fault.rule in RULES and 1 <= fault.line <= lines and fault.what and fault.todo
