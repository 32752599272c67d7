"""Lint of folders and repos: the files beside a card, the template, the base on the Hub; and the command."""

from __future__ import annotations

import json
from pathlib import Path

import card_samples as samples
import pytest
from commands import hubkit
from lint_samples import CARDS, FRONT, ZEPHYR, folder, rules, with_base

from hubkit.cards.lint import MAX_CARD_BYTES, lint, lint_file, lint_text
from hubkit.cards.pictures import draw
from hubkit.cards.render import ADAPTER_CARD, MODEL_CARD, render_card
from hubkit.cards.template_context import build_context
from hubkit.checks.model import FolderSource, RepoSource
from hubkit.core.errors import RefusedError
from hubkit.models.chat.library import CHATML
from hubkit.server.process import Running

# --- the two cards of the field, in our own words


def test_every_fault_of_the_seeds_card_is_named(hub: Running, tmp_path: Path) -> None:
    connected = with_base(hub, tmp_path, "hubkit/lint-base", "apache-2.0")
    text = (CARDS / "seed.md").read_text(encoding="utf-8")
    merged = {"config__json": "{}", "model__safetensors": "", "adapter_config__json": "{}"}
    report = lint(FolderSource(folder(tmp_path / "seed", text, ZEPHYR, **merged)), connected)
    lines = text.splitlines()

    def line(part: str) -> int:
        return next(number for number, said in enumerate(lines, 1) if part in said)

    assert rules(report.findings) == {
        "adapter-at-root": [1],
        "license-mismatch": [line("license: mit")],
        "dead-link": [line("header.png")],
        "scores-not-shown": [line("An adapter trained")],
        "template-differs": [line("ChatML, and a system message"), line("<|im_start|>system")],
        "undefined-name": [line("apply_chat_template(message,")],
        "generation-prompt": [line("apply_chat_template(message,")],
        "template-result": [line("generate(**gen_input)")],
        "average": [line("0.4364")],
    }
    by_rule = {fault.rule: fault for fault in report.findings}
    assert "0.4364, and its table gives 0.4421" in by_rule["average"].message
    assert by_rule["undefined-name"].hint == "Write 'messages', which is defined."
    assert "'mit', but the base model hubkit/lint-base has 'apache-2.0'" in by_rule["license-mismatch"].message
    assert report.unchecked == ()


def test_every_fault_of_its_successors_card_is_named(tmp_path: Path) -> None:
    text = (CARDS / "successor.md").read_text(encoding="utf-8")
    report = lint(FolderSource(folder(tmp_path / "next", text, None)))
    assert set(rules(report.findings)) == {
        "base-model", "base-relation", "local-path", "dead-link", "snippet-syntax", "table-heading", "placeholder",
        "average", "template-missing",
    }  # fmt: skip
    found = rules(report.findings)
    assert len(found["local-path"]) == 2 and len(found["placeholder"]) == 2
    (heading,) = (fault for fault in report.findings if fault.rule == "table-heading")
    assert "under 'TruthfulQA', but its task arc_challenge belongs to GPT4All" in heading.message
    assert report.unchecked == ("The base and its license were not checked: no Hub is available.",)


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
    assert [fault for fault in report.findings if which == MODEL_CARD or fault.rule != "base-relation"] == []
    assert report.unchecked == ()


# --- front matter, files, template


def test_the_oldest_repos_have_no_namespace() -> None:
    text = "---\nlicense: apache-2.0\ndatasets: [squad, wikitext]\nbase_model: distilbert-base-uncased\n---\n# M\n"
    assert lint_text(text) == []
    assert [fault.rule for fault in lint_text(text.replace("squad", "a/b/c"))] == ["front-matter"]
    assert [fault.rule for fault in lint_text(text.replace("distilbert-base", "../base"))] == ["base-model"]


def test_front_matter() -> None:
    found = lint_text("# No front matter\n")
    assert [fault.rule for fault in found] == ["license-missing"]
    found = lint_text("---\nlicense: nonsense\nbase_model: {a: b}\ntags: 3\n---\n")
    assert [(fault.rule, fault.line) for fault in found] == [
        ("front-matter", 2), ("base-model", 3), ("front-matter", 4),
    ]  # fmt: skip
    assert all(len(fault.message) < 400 for fault in found)
    (fault,) = lint_text("---\nlicense: other\n---\n")
    assert (fault.rule, fault.level, fault.line) == (
        "license-name",
        "note",
        2,
    ) and "The Hub refuses" not in fault.message
    assert lint_text("---\nlicense: other\nlicense_name: my-licence\n---\n") == []
    assert [fault.rule for fault in lint_text("---\nlicense: [mit, {a: b}]\n---\n")] == ["front-matter"]
    assert lint_text("---\nlicense: !!int x\n---\n")[0].rule == "front-matter"
    assert lint_text("---\na: [\n---\n")[0].rule == "front-matter"


def test_other_as_a_license_is_accepted_by_the_hub() -> None:
    assert lint_text("---\nlicense: other\nlicense_name: my-licence\n---\n# A model\n") == []
    (advice,) = lint_text("---\nlicense: other\n---\n# A model\n")
    assert advice.level == "note" and "refuses" not in advice.message


@pytest.mark.parametrize(
    "license", ["fair-noncommercial-research-license", "cc-by-2.5", "cc-by-nc-nd-3.0", "openmdw-1.1"]
)
def test_identifiers_with_hyphens_are_whole(license: str) -> None:
    assert lint_text(f"---\nlicense: {license}\nlanguage: en\n---\n# A model\n\nSome words.\n") == []


def test_a_language_with_a_region_is_refused_by_the_hub() -> None:
    (fault,) = lint_text("---\nlicense: apache-2.0\nlanguage:\n- zh-CN\n---\n# A model\n")
    assert (fault.rule, fault.level, fault.line) == ("front-matter", "error", 3)
    assert "The language 'zh-CN' is no ISO 639 code" in fault.message and "'language_bcp47'" in (fault.hint or "")


def test_the_line_of_a_key_below_an_empty_line() -> None:
    (fault,) = lint_text("\n---\nlicense: mit\nlanguage: Italian French\n---\n# A model\n\nlanguage: x\n")
    assert (fault.rule, fault.line) == ("front-matter", 4)


def test_front_matter_that_is_not_closed() -> None:
    (fault,) = lint_text("---\nlicense: apache-2.0\n# m\n\nno closing fence\n")
    assert (fault.rule, fault.line) == ("front-matter", 1)
    assert fault.message == "The front matter that line 1 opens is never closed."


def test_a_bom_before_the_front_matter() -> None:
    (fault,) = lint_text("\ufeff---\nlicense: mit\n---\n")
    assert (fault.rule, fault.line) == (
        "front-matter",
        1,
    ) and "byte order mark precedes" in fault.message


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
        ("This is a base model: it has no chat template.", None, []),
        ("Unlike ChatML models, it has no system turn.", ZEPHYR, []),
        ("It speaks ChatML.", "{{ raise_exception('no') }}", ["template-differs"]),
        ("x", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", ["template-differs"]),
    ],
)
def test_templates(tmp_path: Path, text: str, template: str | None, found: list[str]) -> None:
    report = lint(FolderSource(folder(tmp_path / "m", FRONT + text, template)))
    assert [fault.rule for fault in report.findings] == found, report.findings


def test_a_gguf_file_holds_its_template(tmp_path: Path) -> None:
    place = folder(tmp_path / "m", FRONT + "It speaks ChatML.", None, model__gguf="")
    assert not lint(FolderSource(place)).findings


@pytest.mark.parametrize(
    ("template", "levels"),
    [
        (CHATML, ["warning"]),
        ("{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}", []),  # it opens the turn by itself
        (None, ["note"]),
    ],
)
def test_a_prompt_that_opens_no_turn_counts_as_the_template_needs_it(
    tmp_path: Path, template: str | None, levels: list[str]
) -> None:
    block = "tok = model = m = None\nt = tok.apply_chat_template(m, return_dict=True)\nmodel.generate(**t)"
    report = lint(FolderSource(folder(tmp_path / "m", f"{FRONT}```python\n{block}\n```\n", template)))
    assert [fault.level for fault in report.findings if fault.rule == "generation-prompt"] == levels


def test_a_card_says_who_refuses_it() -> None:
    text = "---\nlicense: mit\nmodel-index:\n- name: m\n  results:\n  - task: {type: x}\n    metrics: []\n---\n"
    (fault,) = lint_text(text)
    assert fault.message == "huggingface_hub refuses the front matter. 'model-index[0].results[0]' has no dataset."
    (fault,) = lint_text("---\nlicense: mit\nwidget:\n- text: some words\n\t\n---\n")
    assert fault.message.startswith(
        "huggingface_hub refuses the front matter. The metadata is not valid YAML: found a tab"
    )
    (fault,) = lint_text("---\nlicense: mit\nlanguage: english\n---\n")
    assert fault.message.startswith("The Hub refuses the front matter. The language 'english' is no ISO 639 code")


# --- the command


def test_a_card_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(b"\xff" * (MAX_CARD_BYTES + 1))
    done = hubkit("card", "lint", str(card), home=tmp_path / "home")
    assert done.returncode == 3 and "too large for a card" in done.stderr
    with pytest.raises(RefusedError, match="too large"):
        lint_file("a" * (MAX_CARD_BYTES + 1), "README.md")


def test_the_command(hub: Running, tmp_path: Path) -> None:
    sound = folder(tmp_path / "sound", FRONT + "# Fine\n")
    given = {"home": tmp_path / "home", "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
    done = hubkit("card", "lint", str(sound), **given)  # type: ignore[arg-type]
    assert done.returncode == 0 and "no problems found" in done.stdout
    done = hubkit("card", "lint", str(CARDS / "successor.md"), "--json", **given)  # type: ignore[arg-type]
    said = json.loads(done.stdout)
    assert done.returncode == 3 and said["clean"] is False
    keys = {"rule", "path", "line", "what", "todo", "level", "message", "hint", "exit_code", "file"}
    assert set(said["faults"][0]) == keys
    assert "the card is a single file" in said["unchecked"][0]
    done = hubkit("card", "lint", str(CARDS / "seed.md"), **given)  # type: ignore[arg-type]
    assert done.returncode == 0 and "seed.md:69: warning: The average is given as" in done.stdout
    assert "warnings, 3 notes." in done.stdout
    done = hubkit("card", "lint", "--strict", str(CARDS / "seed.md"), **given)  # type: ignore[arg-type]
    assert done.returncode == 3, "warnings count when they are asked to"
    assert "The base hubkit/lint-base is not on this Hub." in done.stdout
    for what, words in (
        ("./none", "There is no file or folder"),
        ("none.md", "There is no file"),
        ("x y", "not a repo id"),
    ):
        done = hubkit("card", "lint", what, **given)  # type: ignore[arg-type]
        assert done.returncode == 2 and words in done.stderr
    done = hubkit("card", "lint", str(CARDS / "seed.md"), home=tmp_path / "home")
    assert "Not checked: The base and its license were not checked" in done.stdout, "no Hub runs"


@pytest.mark.parametrize(
    ("own", "base", "found"),
    [
        ("mit", "mit", []),
        ("mit", "cc-by-nc-4.0", ["license-mismatch"]),
        ("other\nlicense_name: llama3", "other\nlicense_name: llama3", []),
        ("other\nlicense_name: mine", "other\nlicense_name: llama3", ["license-mismatch"]),
    ],
)
def test_licences_of_the_base(hub: Running, tmp_path: Path, own: str, base: str, found: list[str]) -> None:
    connected = with_base(hub, tmp_path, "me/base", base)
    text = f"---\nlicense: {own}\nbase_model: [me/base]\n---\n"
    report = lint(FolderSource(folder(tmp_path / "m", text)), connected)
    assert [fault.rule for fault in report.findings] == found


def test_a_repo_is_read_at_its_revision(hub: Running, tmp_path: Path) -> None:
    connected = with_base(hub, tmp_path, "me/mine", "mit")
    assert lint(RepoSource(connected, "me/mine", "main"), connected).findings == ()
    connected.create_branch("me/mine", "old", connected.resolve("me/mine", "main"))
    text = b"---\nlicense: mit\nbase_model: me/nothing\n---\nScores: TBD\n"
    connected.api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id="me/mine", revision="old")
    connected.api.upload_file(
        path_or_fileobj=b"# a\n", path_in_repo="adapter/README.md", repo_id="me/mine", revision="old"
    )
    report = lint(RepoSource(connected, "me/mine", "old"), connected)
    assert [(fault.file, fault.rule) for fault in report.findings] == [
        ("README.md", "base-model"), ("README.md", "placeholder"), ("adapter/README.md", "license-missing"),
    ]  # fmt: skip
    bare = tmp_path / "bare"
    bare.mkdir()
    assert [fault.rule for fault in lint(FolderSource(bare)).findings] == ["no-card"]
