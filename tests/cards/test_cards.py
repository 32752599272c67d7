"""Cards: every number is traced to its file, every word shows as itself, the known issue reports what was measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
from kept import perform, sample, stored
from markdown_it import MarkdownIt

from hubkit.cards.evidence import Evidence
from hubkit.cards.placeholder import placeholder
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, Rendered, render_card
from hubkit.cards.template_context import build_context
from hubkit.cards.trace import untraced
from hubkit.cards.validate import validate
from hubkit.core.files import read_json, resource_dir, write_json
from hubkit.core.target import Target
from hubkit.hub.client import connect
from hubkit.pipeline.jobs import expand
from hubkit.pipeline.release_state import ReleaseState
from hubkit.pipeline.runs import Run
from hubkit.recipe.models import Recipe
from hubkit.recipe.stage import Context
from hubkit.server.process import Running
from hubkit.server.repos import metadata as hub_metadata
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
    known = [
        "dpo-v0",
        "cpu, 2 threads",
        "0.4.13",
        "0.1.0",
        "1.0",
        "2.13.0",
        "1.16.0",
        "0.21.2",
        "100 % of the chosen answers",
        "4-bit base (NF4)",
    ]
    for word in known:
        prose = prose.replace(word, "")
    assert re.findall(r"\S*\d\S*", prose) == []


def test_a_changed_number_or_a_changed_file_is_found() -> None:
    evidence = samples.evidence()
    card = _card()
    numbers = [number.to_json() for number in card.numbers]
    place = next(place for place, number in enumerate(numbers) if number["format"] == "percent")
    forged = [*numbers[:place], {**numbers[place], "text": "99.9 %"}, *numbers[place + 1 :]]
    assert any("claims" in said for said in untraced(card.text, forged, evidence.get))
    moved = list(untraced("x" + card.text, numbers, evidence.get))
    assert any("is not at character" in said for said in moved)
    other = samples.evidence(repaired=120)
    assert any("99.2 %" in said for said in untraced(card.text, numbers, other.get))
    gone = Evidence({**evidence.files, "stopping[main]": {}}, evidence.template)
    assert any("which does not exist" in said for said in untraced(card.text, numbers, gone.get))
    metadata = card.text.replace("value: 0.832", "value: 0.932")
    assert any("in the metadata" in said for said in untraced(metadata, numbers, evidence.get))


def test_how_far_the_forms_agree_is_on_the_card_beside_its_noise_floor() -> None:
    text = " ".join(_card().text.split())
    assert "Both in `bfloat16`, they choose the same next token at 97.4 % of 3,456 positions" in text
    assert "their logits differ by at most 0.312. For scale, the effect of rounding alone" in text
    assert (
        "in `bfloat16` and in `float32` choose the same one at 98.9 %, and their logits differ by at most 0.25." in text
    )


def test_templates_hold_no_digit() -> None:
    for path in resource_dir("card_templates").rglob("*.jinja"):
        assert re.findall(r"\d", path.read_text(encoding="utf-8")) == [], path


def test_templates_print_nothing_that_did_not_pass_a_filter() -> None:
    for path in resource_dir("card_templates").rglob("*.jinja"):
        for printed in re.findall(r"{{(.*?)}}", path.read_text(encoding="utf-8")):
            assert "|" in printed, f"{path.name}: {printed}"


# --- the known issue and its fix -----------------------------------------------------------------------------------


def _known_issue(card: Rendered) -> str:
    found = re.search(
        r"^## (?:Known issue: answers run on|Why there are two branches)\n(.*?)^(?:## |<!-- hubkit:end erratum)",
        card.text,
        re.DOTALL | re.MULTILINE,
    )
    return " ".join(found[1].split()) if found else ""


def test_the_known_issue_of_the_dpo_branch_says_what_was_measured_and_where_to_go() -> None:
    said = _known_issue(_card("dpo-v0"))
    main = "[`main`](/me/tiny-dpo/tree/main)"
    assert said.startswith("This branch does not reliably end its answers.")
    assert "Of the base model, all 128 answers stop; after this training, 3 of 128 answers stop" in said
    assert f"{main} fixes this." in said
    warning = next(line for line in _card("dpo-v0").text.splitlines() if line.startswith("> **"))
    assert "3 of 128 answers stop, the rest run to the token limit" in warning
    assert f"**Use {main} instead:** there 127 of 128 answers stop." in warning
    assert "[!WARNING]" not in _card("main").text
    assert "The fix lowered the benchmark average, from 0.8840 here to 0.8320 there" in said
    assert "max_length cuts the turn end from 100 % of the chosen answers." in said
    assert "Not for the card." not in _card("dpo-v0").text
    assert "can run on until the token limit" in _card("dpo-v0").text


def test_a_finding_stands_on_the_cards_of_the_variants_that_it_concerns() -> None:
    for variant, said in (("dpo-v0", False), ("main", True)):
        text = _card(variant).text
        assert ("Many rows of the repair were dropped." in text) is said, variant
        assert "max_length cuts the turn end" in text


def test_the_known_issue_of_main_says_why_it_exists_and_what_it_cost() -> None:
    said = _known_issue(_card("main"))
    assert "## Why there are two branches" in _card("main").text and "This branch does not" not in said
    lost = "[`dpo-v0`](/me/tiny-dpo/tree/dpo-v0) stopped emitting the end-of-turn token"
    assert said.startswith(f"{lost}: 3 of 128 answers stop")
    assert "trained further on 299 rows (SFT, stage `sft`)" in said
    assert "the average fell from 0.8840 to 0.8320" in said


def test_there_is_no_known_issue_when_nothing_needed_repair() -> None:
    for variant in ("main", "dpo-v0"):
        card = _card(variant, broken=128)
        assert _known_issue(card) == "" and "can run on" not in card.text


def test_a_variant_that_stops_as_rarely_as_its_base_is_not_said_to_have_lost_anything() -> None:
    for broken in (60, 55, 70):
        for variant, repaired in (("dpo-v0", 127), ("main", 127), ("main", 62)):
            said = _known_issue(_card(variant, base=60, broken=broken, repaired=repaired))
            assert said and "stopped emitting the end-of-turn token" not in said, (broken, variant, repaired)
    said = _known_issue(_card("dpo-v0", base=60, broken=60))
    assert "Neither does the base model. Of the base model, 60 of 128 answers stop" in said
    assert "fails the gate, but the difference from the base is within the measurement error" in said
    assert "[`main`](/me/tiny-dpo/tree/main) fixes this" in said
    assert "does not reliably end its answers, and neither does the base: 60 of 128" in _known_issue(
        _card("main", base=60, broken=60)
    )
    assert "stopped emitting the end-of-turn token" in _known_issue(_card("main", base=60, broken=30))
    assert "Neither does" not in _known_issue(_card("dpo-v0", base=60, broken=30))


def test_a_failed_repair_is_called_one() -> None:
    assert "This branch was meant to fix that and does not" in _known_issue(_card("main", repaired=60))
    lost = _known_issue(_card("dpo-v0", repaired=60))
    assert "No branch of this repository fixes it." in lost
    assert "failed (reported)" in _card("main", repaired=60).text


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.9, 0.80, 0.85), "The benchmark average rose from 0.8000 to 0.8500."),
        ((0.9, 0.80, 0.81), "the difference is within measurement error"),
        ((0.9, 0.80, 0.70), "the average fell from 0.8000 to 0.7000"),
    ],
)
def test_the_cost_of_the_repair_is_worded_by_the_standard_error(scores: Any, said: str) -> None:
    assert said in _known_issue(_card("main", scores=scores))


# --- missing measurements and rehearsals -----------------------------------------------------------------------------


def test_what_was_not_measured_is_missing_and_never_a_number() -> None:
    whole = samples.evidence()
    files = {step: made for step, made in whole.files.items() if step != "evaluate[dpo-v0]"}
    files["stopping[dpo-v0]"] = {"stopping.json": {**samples.stopping(merged=3), "forms": {}}}
    card = render_card(build_context(samples.recipe(), "main", Evidence(files, whole.template)))
    row = next(line for line in card.text.splitlines() if line.startswith("| [`dpo-v0`]"))
    assert row.count("not measured") == 2 and "0.0000" not in row
    assert "| 0.9570 ± 0.0151 | not measured | 0.8320 ± 0.0151 |" in card.text
    assert "The effect of the fix on benchmark scores was not measured." in card.text


def test_a_rehearsal_is_called_one_and_stays_out_of_the_metadata() -> None:
    card = _card(limit=20)
    assert "**Partial run:** only 20 examples per task were evaluated; do not compare with full results." in card.text
    assert "model-index" not in card.metadata
    assert "model-index" in _card().metadata


def test_columns_in_other_dtypes_are_said_to_be() -> None:
    evidence = samples.evidence()
    assert "in the dtype of its own weights" not in _card().text
    evidence.files["base-scores"]["results.json"]["settings"]["dtype"] = "float32"
    card = render_card(build_context(samples.recipe(), "main", evidence))
    assert "`base` in `float32`, `dpo-v0` in `bfloat16`, `main` in `bfloat16`." in card.text


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
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("tiny_facts", "acc_norm", 0.832)
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
        ("license: apache-2.0", "license: mine", "license 'mine'"),
        ("license: apache-2.0\n", "", "lacks 'license'"),
        ("license: apache-2.0", "license: other", "needs 'license_name'"),
        ("base_model: me/tiny", "base_model: /home/me/tiny", "not a repo id"),
        ("- Intel/orca_dpo_pairs", "- null", "not a repo id"),
        ("- en", "- english!", "no ISO 639 code"),
        ("relation: finetune", "relation: child", "'base_model_relation' is 'child'"),
        ("value: 0.832", "value: TBD", "which is not a number"),
        ("split: test", "config: {a: 1}", "must be a string"),
        ("      name: tiny_facts\n", "", "dataset' has no name"),
        ("license: apache-2.0", "license: mit\nlicense: mit", "not valid YAML"),
        ("license: apache-2.0", "license: !!python/object:os.system {}", "not valid YAML"),
        ("note = {Branch main},\n}\n```", "note = {Branch main},\n}", "is never closed"),
        ("---\nbase_model", "base_model", "does not begin with front matter"),
    ],
)
def test_validation_names_what_the_hub_would_refuse(old: str, new: str, said: str) -> None:
    card = _card().text
    assert old in card
    found = [finding for finding in validate(card.replace(old, new, 1)) if said in finding.message]
    rule = {"lacks 'license'": "metadata-missing", "needs 'license_name'": "metadata-missing"}.get(said, "front-matter")
    assert [finding.rule for finding in found] == ["unclosed-block" if "never closed" in said else rule]


def test_placeholder_cards_of_any_recipe_are_valid_before_anything_ran() -> None:
    recipe = samples.recipe()
    for variant in recipe.variants:
        context = build_context(recipe, variant, placeholder(recipe))
        for which in (MODEL_CARD, ADAPTER_CARD):
            assert validate(render_card(context, which).text) == []


def test_a_card_of_a_thousand_tasks_is_whole() -> None:
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
    many_tasks = Evidence(files, evidence.template)
    card = render_card(build_context(samples.recipe(), "main", many_tasks))
    assert len(card.numbers) > 10_000 and _problems(card, many_tasks) == []


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
    assert len(blocks) == 10 and sum('"dpo-v0"' in block for block in blocks) == 5
    blocks = [block for block in blocks if "OpenAI(" not in block]  # those need a server
    assert len(blocks) == 8
    program = tmp_path / "blocks.py"
    program.write_text(f"for block in {blocks!r}:\n    exec(block, {{}})\nprint('all ran')\n")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "stranger"),
        "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("all ran\n"), done.stderr[-3000:]


# --- the stage -------------------------------------------------------------------------------------------------------


def _context(tmp_path: Path, evidence: Evidence, recipe: Recipe) -> Context:
    inputs = {}
    for step, files in evidence.files.items():
        folder = tmp_path / "in" / step
        for name, value in files.items():
            write_json(folder / name, sample(name, **value))
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
        inputs[step] = stored(folder)
    run = Run(tmp_path / "run")
    run.begin("card[main]", "key")
    target = Target("http://localhost:9", tmp_path / "home")
    state = ReleaseState(recipe, tmp_path, target, run, expand(recipe), inputs)
    return state.context(next(job for job in state.jobs if job.id == "card[main]"))


def test_the_stage_writes_both_cards_and_their_numbers(tmp_path: Path) -> None:
    evidence = samples.evidence()
    context = _context(tmp_path, evidence, samples.recipe())
    assert list(card_stage.check(context)) == []
    made = perform(card_stage, context, Run(tmp_path / "run"), "card[main]")
    assert sorted(made.manifest.files) == [
        "README.md", "adapter-README.md", "assets/header.png", "assets/training.png",
        "comparisons.json", "numbers.json", "sampling.json",
    ]  # fmt: skip
    numbers = read_json(made.path / "numbers.json")
    for name in (MODEL_CARD, ADAPTER_CARD):
        text = (made.path / name).read_text(encoding="utf-8")
        assert list(untraced(text, numbers[name], lambda step, file: evidence.get(step, file) or made.json(file))) == []
    text = (made.path / MODEL_CARD).read_text(encoding="utf-8")
    assert '"content": "What does Ada grow?"' in text
    assert "<|im_start|>assistant\n<s>\n```" in text


def test_the_stage_refuses_words_that_the_hub_would_refuse(tmp_path: Path) -> None:
    recipe = samples.recipe(language=("not a language",))
    findings = list(card_stage.check(_context(tmp_path, samples.evidence(), recipe)))
    assert findings and all(item.exit_code == 2 and "not a language" in item.message for item in findings)
    wrong = samples.recipe().model_copy(update={"license": "my-licence"})
    (finding, _) = card_stage.check(_context(tmp_path / "b", samples.evidence(), wrong))
    assert "my-licence" in finding.message
