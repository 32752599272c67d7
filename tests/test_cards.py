"""Cards: every number is traced to its file, every word shows as itself, the erratum says what was measured."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from jinja2.exceptions import SecurityError, TemplateAssertionError
from markdown_it import MarkdownIt
from markdown_it.token import Token

from hubkit.cards import (
    ADAPTER_CARD,
    FORMATS,
    MODEL_CARD,
    CardError,
    Evidence,
    Rendered,
    build_context,
    placeholder,
    render_card,
    untraced,
    validate,
)
from hubkit.cards.escape import clean, code, md, one_line, python, sentence
from hubkit.cards.measured import Measured, wrap
from hubkit.cards.metadata import read_block
from hubkit.cards.render import TEMPLATES
from hubkit.config import Recipe
from hubkit.files import Manifest, read_json, resource_dir, write_json
from hubkit.hub import connect
from hubkit.run import Artifact, Context, Run, Target
from hubkit.server import metadata as hub_metadata
from hubkit.server.process import Running
from hubkit_stages import card as card_stage

PARSER = MarkdownIt("commonmark").enable("table")


def _card(variant: str = "main", which: str = MODEL_CARD, *, recipe: Recipe | None = None, **facts: Any) -> Rendered:
    return render_card(build_context(recipe or samples.recipe(), variant, samples.evidence(**facts)), which)


def _problems(card: Rendered, evidence: Evidence) -> list[str]:
    numbers = [number.to_json() for number in card.numbers]
    return list(untraced(card.text, numbers, evidence.get))


@pytest.mark.parametrize("which", [MODEL_CARD, ADAPTER_CARD])
@pytest.mark.parametrize("variant", ["main", "dpo-v0"])
def test_every_number_is_traced_to_a_result_file(variant: str, which: str) -> None:
    evidence = samples.evidence()
    card = render_card(build_context(samples.recipe(), variant, evidence), which)
    assert _problems(card, evidence) == []
    body = len(card.text) - len(card.text.split("---\n", 2)[2])
    offsets = [number.offset for number in card.numbers if number.offset is not None]
    assert offsets == sorted(offsets) and min(offsets) > body and len(offsets) > 20


def test_a_digit_outside_code_and_links_is_a_number_or_a_word_of_a_file() -> None:
    card = _card()
    text = list(card.text)
    for number in card.numbers:
        if number.offset is not None:
            text[number.offset : number.offset + len(number.text)] = " " * len(number.text)
    prose = "".join(text).split("---\n", 2)[2]
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", prose, flags=re.DOTALL)
    known = ["0.4.13", "0.1.0", "1.0", "2.13.0", "1.16.0", "0.21.2", "100 % of the chosen answers"]
    for word in known:
        prose = prose.replace(word, "")
    assert re.findall(r"\S*\d\S*", prose) == []


def test_a_changed_number_or_a_changed_file_is_found() -> None:
    evidence = samples.evidence()
    card = _card()
    numbers = [number.to_json() for number in card.numbers]
    place = next(place for place, number in enumerate(numbers) if number["format"] == "percent")
    forged = [*numbers[:place], {**numbers[place], "text": "99.9 %"}, *numbers[place + 1 :]]
    assert any("where" in said for said in untraced(card.text, forged, evidence.get))
    moved = list(untraced("x" + card.text, numbers, evidence.get))
    assert any("does not stand at character" in said for said in moved)
    other = samples.evidence(repaired=120)
    assert any("99.2 %" in said for said in untraced(card.text, numbers, other.get))
    gone = Evidence({**evidence.files, "stopping[main]": {}}, evidence.template)
    assert any("where nothing stands" in said for said in untraced(card.text, numbers, gone.get))
    metadata = card.text.replace("value: 0.842", "value: 0.942")
    assert any("in the metadata" in said for said in untraced(metadata, numbers, evidence.get))


def test_templates_hold_no_digit() -> None:
    for path in resource_dir("card_templates").rglob("*.jinja"):
        assert re.findall(r"\d", path.read_text(encoding="utf-8")) == [], path


def test_templates_print_nothing_that_did_not_pass_a_filter() -> None:
    for path in resource_dir("card_templates").rglob("*.jinja"):
        for printed in re.findall(r"{{(.*?)}}", path.read_text(encoding="utf-8")):
            assert "|" in printed, f"{path.name}: {printed}"


# --- the erratum ---------------------------------------------------------------------------------------------------


def _erratum(card: Rendered) -> str:
    found = re.search(r"^## Erratum\n(.*?)^## ", card.text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def test_the_erratum_of_the_dpo_branch_says_what_was_measured_and_where_to_go() -> None:
    said = _erratum(_card("dpo-v0"))
    assert "**This branch does not reliably end its answers.**" in said
    assert "The base model ends 100 % (128 of 128;" in said
    assert "the merged weights end 2.3 % (3 of 128;" in said
    assert "The branch `main` repairs this: its merged weights end 99.2 % (127 of 128;" in said
    assert "The repair lowered the benchmark average, from 0.8840 here to 0.8420 there" in said
    assert "max_length cuts the turn end from 100 % of the chosen answers." in said
    assert "Not for the card." not in _card("dpo-v0").text
    assert "can run on until the token limit" in _card("dpo-v0").text


def test_the_erratum_of_main_says_why_it_exists_and_what_it_cost() -> None:
    said = _erratum(_card("main"))
    assert "**Why this branch exists.** The variant on the branch `dpo-v0` lost its turn ends" in said
    assert "trained further on 299 rows (SFT, stage `sft`)" in said
    assert "the average fell from 0.8840 to 0.8420" in said


def test_there_is_no_erratum_when_nothing_needed_repair() -> None:
    for variant in ("main", "dpo-v0"):
        card = _card(variant, broken=128)
        assert _erratum(card) == "" and "can run on" not in card.text


def test_a_failed_repair_is_called_one() -> None:
    assert "**The repair failed.**" in _erratum(_card("main", repaired=60))
    lost = _erratum(_card("dpo-v0", repaired=60))
    assert "No branch of this repository repairs it." in lost
    assert "failed, reported" in _card("main", repaired=60).text


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.9, 0.80, 0.85), "The benchmark average rose from 0.8000 to 0.8500."),
        ((0.9, 0.80, 0.81), "a difference no larger than its standard error"),
        ((0.9, 0.80, 0.70), "the average fell from 0.8000 to 0.7000"),
    ],
)
def test_the_cost_of_the_repair_is_worded_by_the_standard_error(scores: Any, said: str) -> None:
    assert said in _erratum(_card("main", scores=scores))


# --- missing measurements and rehearsals -----------------------------------------------------------------------------


def test_what_was_not_measured_is_missing_and_never_a_number() -> None:
    whole = samples.evidence()
    files = {step: made for step, made in whole.files.items() if step != "evaluate[dpo-v0]"}
    files["stopping[dpo-v0]"] = {"stopping.json": {**samples.stopping(merged=3), "forms": {}}}
    card = render_card(build_context(samples.recipe(), "main", Evidence(files, whole.template)))
    row = next(line for line in card.text.splitlines() if line.startswith("| [`dpo-v0`]"))
    assert row.count("missing") == 3 and "0.0000" not in row
    assert "| 0.9570 ± 0.0151 | missing | 0.8420 ± 0.0151 |" in card.text
    assert "What the repair cost in benchmark scores was not measured." in card.text


def test_a_rehearsal_is_called_one_and_stays_out_of_the_metadata() -> None:
    card = _card(limit=20)
    assert "**A rehearsal:** only 20 examples of each task were used." in card.text
    assert "model-index" not in card.metadata
    assert "model-index" in _card().metadata


def test_columns_in_other_dtypes_are_said_to_be() -> None:
    evidence = samples.evidence()
    assert "in the dtype of its own weights" not in _card().text
    evidence.files["base-scores"]["results.json"]["settings"]["dtype"] = "float32"
    card = render_card(build_context(samples.recipe(), "main", evidence))
    assert "`base` in `float32`, `dpo-v0` in `bfloat16`, `main` in `bfloat16`." in card.text


# --- the words of the recipe -----------------------------------------------------------------------------------------

_NASTY = st.one_of(
    st.text(min_size=1, max_size=120),
    st.text(alphabet="-`|#*_[]<>{}!~\\&$%\n\t :'\"1.)(", min_size=1, max_size=60),
    st.sampled_from(
        [
            "\n---\n",
            "x\n---\nlicense: evil\n---\n",
            "```\n# out\n```",
            "~~~",
            "a | b | c",
            "a\\|b",
            "| --- |",
            "{{ cycler.__init__.__globals__.os.popen('id') }}",
            "{% for x in range(10**9) %}{% endfor %}",
            "<script>alert(1)</script>",
            "<!-- x",
            "</details>",
            "[x](javascript:alert(1))",
            "![x](http://x/y.png)",
            "<|im_end|>",
            "1. one",
            "- one",
            "+ one",
            "    indented",
            "===",
            "\x00n0\x00",
            "\ud800",
            "\u202e",
            "\u2028x",
            "\x85x",
            "\x85",
            "\u2028",
            "!!python/object:os.system",
            "on",
            "null",
            "*anchor",
            "&anchor",
            "%TAG",
            "@x",
            "'",
            '"',
        ]
    ),
)
_WORDS = _NASTY.filter(lambda text: bool(one_line(text)))
_PARAGRAPH = _WORDS.filter(lambda text: len(re.split(r"\n\s*\n", clean(text).strip())) == 1)


def _body(text: str) -> str:
    found = REGEX_YAML_BLOCK.search(text)
    assert found
    return text[found.end() :]


def _blocks(text: str) -> list[tuple[str, str]]:
    body = _body(text)
    return [(token.type, token.tag) for token in PARSER.parse(body) if token.type != "inline"]


def _shown(token: Token) -> str:
    return "".join(child.content or (" " if child.type == "softbreak" else "") for child in token.children or [])


def _inlines(text: str) -> Iterator[str]:
    body = _body(text)
    for token in PARSER.parse(body):
        if token.type == "inline":
            yield _shown(token)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(title=_WORDS, summary=_PARAGRAPH, limitations=_PARAGRAPH, author=_WORDS, tag=_WORDS, tracking=_WORDS)
def test_any_words_of_a_recipe_survive_unharmed(
    title: str, summary: str, limitations: str, author: str, tag: str, tracking: str
) -> None:
    recipe = samples.recipe(
        title=title,
        summary=summary,
        limitations=limitations,
        authors=(author,),
        tags=(tag,),
        tracking=tracking,
        language=("en", "de"),
    )
    evidence = samples.evidence()
    for which in (MODEL_CARD, ADAPTER_CARD):
        card = render_card(build_context(recipe, "main", evidence), which)
        assert read_block(card.text) == card.metadata
        assert card.metadata["tags"][0] == tag and card.metadata["license"] == "apache-2.0"
        assert set(card.metadata) == set(_card(which=which).metadata)
        assert validate(card.text) == [] and _problems(card, evidence) == []
        assert _blocks(card.text) == _blocks(_card(which=which, recipe=_PLAIN).text)
        shown = list(_inlines(card.text))
        expected = one_line(title) + (": the adapter" if which == ADAPTER_CARD else "")
        assert shown[0] == expected
        if which == MODEL_CARD:
            assert shown[1] == one_line(summary) and one_line(limitations) in shown
            assert f"By {one_line(author)}." in shown
        card.text.encode()


_PLAIN = samples.recipe(
    title="x", summary="x", limitations="x", authors=("x",), tags=("x",), tracking="x", language=("en",)
)


@settings(max_examples=40, deadline=None)
@given(_WORDS, st.sampled_from(["what", "finding", "prompt", "licence", "dropped"]))
def test_words_from_result_files_do_not_break_a_table_or_a_block(text: str, where: str) -> None:
    evidence = samples.evidence()
    files = json.loads(json.dumps(evidence.files))
    recipe, question = samples.recipe(), "x"
    data = files["data"]["data.json"]
    if where == "what":
        variants = {**recipe.variants, "main": recipe.variants["main"].model_copy(update={"title": text})}
        recipe = recipe.model_copy(update={"variants": variants})
    elif where == "finding":
        data["findings"][0]["message"] = text
    elif where == "licence":
        data["sets"]["repair"]["sources"][0]["licence"] = text
    elif where == "dropped":
        data["sets"]["repair"]["sources"][0]["dropped"] = {text: 1}
    else:
        question = text
    card = render_card(build_context(recipe, "main", Evidence(files, evidence.template, {}, question)))
    plain = render_card(build_context(samples.recipe(), "main", samples.evidence()))
    assert _blocks(card.text) == _blocks(plain.text)
    assert validate(card.text) == []
    for token in PARSER.parse(card.text):
        if token.type == "fence" and token.info == "python":
            ast.parse(token.content)


@given(_WORDS)
def test_each_escape_shows_exactly_its_text(text: str) -> None:
    wanted = one_line(text)
    for escaped in (md(text), sentence(text)):
        (inline,) = [token for token in PARSER.parse(escaped) if token.type == "inline"]
        assert _shown(inline) == wanted
    (inline,) = [token for token in PARSER.parse(f"x {code(text)}") if token.type == "inline"]
    assert (inline.children or [])[1].content == wanted
    assert ast.literal_eval(python(text)) == text and "\n" not in python(text)


@given(st.text(st.sampled_from("<|im_end|> `a-1.\\*|\n"), max_size=40))
def test_control_tokens_in_a_sentence_are_code_and_all_else_is_text(text: str) -> None:
    text = f"x {text} <|im_end|>"
    (inline,) = [token for token in PARSER.parse(sentence(text)) if token.type == "inline"]
    assert _shown(inline) == one_line(text)
    assert (inline.children or [])[-1].type == "code_inline"


# --- what a template may not do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ rate }}", CardError),
        ("{{ count + count }}", TypeError),
        ("{{ title }}", CardError),
        ("{{ yes }}", CardError),
        ("{{ 'a' ~ rate }}", CardError),
        ("{{ rate._value }}", SecurityError),
        ("{{ rate.step | md }}", SecurityError),
        ("{{ title.__class__ | md }}", SecurityError),
        ("{{ title | measured('count') }}", CardError),
        ("{{ rate | measured('grand') }}", CardError),
        ("{{ rate | pprint }}", TemplateAssertionError),
        ("{{ nothing }}", UndefinedError),
        ("{{ nothing | md }}", UndefinedError),
        ("{{ cycler }}", UndefinedError),
        ("{% if nothing %}x{% endif %}", UndefinedError),
    ],
)
def test_a_template_cannot_print_what_was_not_measured_or_escaped(
    tmp_path: Path, template: str, error: type[Exception]
) -> None:
    (tmp_path / TEMPLATES[MODEL_CARD]).write_text(template)
    metadata = build_context(_PLAIN, "main", samples.evidence())["metadata"]
    context = {
        "rate": wrap(0.5, "s", "f"), "count": wrap(3, "s", "f"), "title": "x", "yes": True, "metadata": metadata,
    }  # fmt: skip
    with pytest.raises(error):
        render_card(context, templates=tmp_path)


def test_a_measured_number_hides_its_value_from_templates() -> None:
    number = Measured(0.123, "stopping[main]", "stopping.json", "/forms/merged/rate")
    assert "0.123" not in repr(number)
    with pytest.raises(CardError):
        str(number)
    with pytest.raises(CardError):
        f"{number:.2f}"


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("percent", 0.9765625, "97.7 %"),
        ("percent", 1.0, "100 %"),
        ("percent", 0, "0 %"),
        ("percent", 0.0005, "0.1 %"),
        ("score", 0.44205, "0.4421"),
        ("count", 7000, "7,000"),
        ("whole", 4321.9, "4,322"),
        ("plain", 5e-05, "5e-05"),
        ("plain", 16, "16"),
        ("plain", 2.0, "2"),
        ("short", 0.6097560975609756, "0.61"),
        ("duration", 41.7, "42 s"),
        ("duration", 36720.0, "10.2 h"),
        ("duration", 600, "10 min"),
        ("size", 14_480_000_000, "14.5 GB"),
        ("size", 12, "12 B"),
        ("parameters", 7_241_732_096, "7.24 B"),
        ("parameters", 361_000, "361,000"),
    ],
)
def test_formats(form: str, value: float, text: str) -> None:
    assert FORMATS[form](value) == text


# --- metadata and validation -----------------------------------------------------------------------------------------


def test_metadata_is_what_the_hub_and_its_client_read() -> None:
    from huggingface_hub import ModelCard

    card = _card()
    loaded = ModelCard(card.text)
    assert loaded.data.base_model == "me/tiny" and loaded.data.library_name == "transformers"
    assert loaded.data["base_model_relation"] == "finetune"
    assert loaded.data.datasets == [
        "Intel/orca_dpo_pairs", "argilla/ultrafeedback-binarized-preferences", "teknium/openhermes",
    ]  # fmt: skip
    (result,) = loaded.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("tiny_facts", "acc_norm", 0.842)
    assert hub_metadata.check(card.text, "model") == ([], [])
    assert _card("dpo-v0").metadata["datasets"] == [
        "Intel/orca_dpo_pairs", "argilla/ultrafeedback-binarized-preferences",
    ]  # fmt: skip
    adapter = _card(which=ADAPTER_CARD)
    assert (adapter.metadata["library_name"], adapter.metadata["base_model_relation"]) == ("peft", "adapter")
    assert hub_metadata.check(adapter.text, "model") == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("license: apache-2.0", "license: mine", "licence 'mine'"),
        ("license: apache-2.0\n", "", "lacks 'license'"),
        ("license: apache-2.0", "license: other", "needs 'license_name'"),
        ("base_model: me/tiny", "base_model: /home/me/tiny", "no repo id"),
        ("- Intel/orca_dpo_pairs", "- null", "no repo id"),
        ("- en", "- english!", "no ISO 639 code"),
        ("relation: finetune", "relation: child", "'base_model_relation' is 'child'"),
        ("value: 0.842", "value: TBD", "which is not a number"),
        ("split: test", "config: {a: 1}", "must be a word"),
        ("      name: tiny_facts\n", "", "not in the Hub's form"),
        ("license: apache-2.0", "license: mit\nlicense: mit", "not valid YAML"),
        ("license: apache-2.0", "license: !!python/object:os.system {}", "not valid YAML"),
        ("## Limitations", "```\n## Limitations", "is never closed"),
        ("---\nbase_model", "base_model", "does not begin with metadata"),
    ],
)
def test_validation_names_what_the_hub_would_refuse(old: str, new: str, said: str) -> None:
    card = _card().text
    assert old in card
    assert any(said in problem for problem in validate(card.replace(old, new, 1)))


def test_placeholder_cards_of_any_recipe_are_valid_before_anything_ran() -> None:
    recipe = samples.recipe()
    for variant in recipe.variants:
        context = build_context(recipe, variant, placeholder(recipe))
        for which in (MODEL_CARD, ADAPTER_CARD):
            assert validate(render_card(context, which).text) == []


def test_a_card_of_a_thousand_tasks_is_made_in_a_moment() -> None:
    import time

    from hubkit.evals.results import Metric, Results, SuiteResult, TaskResult

    tasks = {
        f"t{place}": TaskResult(
            name=f"t{place}", version="1", n_shot=0, n=9, metrics={"acc": Metric(value=0.5, stderr=0.1, n=9)}
        )
        for place in range(1000)
    }
    one = samples.results(0.5)
    many = Results.of(
        suites={"s": SuiteResult.of("s", "S", "own", tasks)},
        **{name: getattr(one, name) for name in ("subject", "settings", "libraries", "seconds")},
    ).model_dump(mode="json")
    evidence = samples.evidence()
    files = {step: {"results.json": many} if "results.json" in made else made for step, made in evidence.files.items()}
    started = time.perf_counter()
    card = render_card(build_context(samples.recipe(), "main", Evidence(files, evidence.template)))
    assert len(card.numbers) > 10_000
    assert time.perf_counter() - started < 5  # a machine that other tests share; alone it takes well under one


# --- the quick start -------------------------------------------------------------------------------------------------


@pytest.mark.train
def test_every_python_block_of_both_cards_runs_against_the_branch_that_it_names(
    hub: Running, tmp_path: Path, make_model: Any, make_tokenizer: Any
) -> None:
    from peft import LoraConfig, get_peft_model

    connected = connect(Target(hub.url, tmp_path / "home", hub.token, embedded=True))
    model, tokenizer = make_model(), make_tokenizer()
    commits = {}
    for repo in ("hubkit/little", "hubkit/little-dpo"):
        folder = tmp_path / repo
        if repo == "hubkit/little-dpo":
            get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder / "adapter")
        make_model().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        connected.ensure_repo(repo, "public")
        connected.api.upload_folder(repo_id=repo, folder_path=folder)
        commits[repo] = connected.resolve(repo, "main")
    connected.api.create_branch("hubkit/little-dpo", branch="dpo-v0")
    recipe = samples.recipe(samples.RECIPE.replace("me/tiny-dpo", "hubkit/little-dpo"))
    evidence = samples.evidence()
    evidence.files["base"]["base.json"] |= {"repo": "hubkit/little", "commit": commits["hubkit/little"]}
    evidence.files["base-stopping"]["stopping.json"]["max_new_tokens"] = 4
    cards = [
        render_card(build_context(recipe, variant, evidence), which).text
        for variant in ("main", "dpo-v0")
        for which in (MODEL_CARD, ADAPTER_CARD)
    ]
    blocks = [
        token.content
        for card in cards
        for token in PARSER.parse(card)
        if token.type == "fence"
        if token.info == "python"
    ]
    assert len(blocks) == 6 and sum('"dpo-v0"' in block for block in blocks) == 3
    program = tmp_path / "blocks.py"
    program.write_text(f"for block in {blocks!r}:\n    exec(block, {{}})\nprint('all ran')\n")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "stranger"),
        "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("all ran\n"), done.stderr[-3000:]


# --- the stage -------------------------------------------------------------------------------------------------------


def _context(tmp_path: Path, evidence: Evidence, recipe: Recipe) -> Context:
    inputs = {}
    for step, files in evidence.files.items():
        folder = tmp_path / "in" / step
        for name, value in files.items():
            write_json(folder / name, value)
        if step == "base":
            (folder / "chat_template.jinja").write_text(evidence.template)
        if step == "data":
            prompts = [
                {"messages": [{"role": "user", "content": "What does Ada grow, and where, and why?"}]},
                {"messages": [{"role": "user", "content": "What does Ada grow?"}]},
                {"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Ada?"}]},
            ]
            lines = "".join(json.dumps(row) + "\n" for row in prompts)
            (folder / "prompts.jsonl").write_text(lines)
        if step == "merge[main]":
            (folder / "model").mkdir()
            (folder / "model" / "chat_template.jinja").write_text(evidence.template + "{{ bos_token }}")
            write_json(folder / "model" / "tokenizer_config.json", {"bos_token": "<s>"})
        inputs[step] = Artifact(folder, "key", Manifest.of(folder), {}, 0.0)
    run = Run(tmp_path / "run")
    run.begin("card[main]", "key")
    target = Target("http://localhost:9", tmp_path / "home")
    return Context("card[main]", recipe, tmp_path, {}, inputs, target, run, "key", variant_name="main")


def test_the_stage_writes_both_cards_and_their_numbers(tmp_path: Path) -> None:
    evidence = samples.evidence()
    context = _context(tmp_path, evidence, samples.recipe())
    assert list(card_stage.check(context)) == []
    made = card_stage.run(context)
    assert sorted(made.manifest.files) == ["README.md", "adapter-README.md", "numbers.json"]
    numbers = read_json(made.path / "numbers.json")
    for name in (MODEL_CARD, ADAPTER_CARD):
        text = (made.path / name).read_text(encoding="utf-8")
        assert list(untraced(text, numbers[name], evidence.get)) == []
    text = (made.path / MODEL_CARD).read_text(encoding="utf-8")
    assert '"content": "What does Ada grow?"' in text
    assert "<|im_start|>assistant\n<s>\n```" in text


def test_the_stage_refuses_words_that_the_hub_would_refuse(tmp_path: Path) -> None:
    recipe = samples.recipe(language=("not a language",))
    findings = list(card_stage.check(_context(tmp_path, samples.evidence(), recipe)))
    assert findings and all(item.exit_code == 2 and "not a language" in item.message for item in findings)
    wrong = samples.recipe().model_copy(update={"licence": "my-licence"})
    (finding, _) = card_stage.check(_context(tmp_path / "b", samples.evidence(), wrong))
    assert "my-licence" in finding.message
