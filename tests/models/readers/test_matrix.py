"""A model read by the installed transformers: in a child as `hubkit readers` runs it, and with planted faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from read_models import as_published, as_saved, changed, questions

from hubkit.core.errors import UsageError
from hubkit.models.merging.companions import write_companions
from hubkit.models.readers import in_transformers
from hubkit.models.readers.asking import Places, Report, ask
from hubkit.models.readers.comparing import Cell, Expected, judge
from hubkit.models.readers.environments import pins
from hubkit.models.readers.matrix import Model, _end_of_turn, read_by
from hubkit.models.readers.readers import NAMES, READERS, reader_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_saved(tmp_path_factory.mktemp("saved") / "model")


def read(folder: Path) -> Report:
    asked = questions()
    return Report(
        in_transformers.read(
            {
                "model": str(folder), "tokenizer": str(folder), "adapter": None, "texts": asked.texts,
                "conversations": asked.conversations, "prompts": asked.prompts, "max_new_tokens": asked.max_new_tokens,
            }
        )
    )  # fmt: skip


def cell(folder: Path, reference: Report | None = None) -> Cell:
    return judge("transformers", "merged", read(folder), Expected(reference, _end_of_turn(folder)))


def test_the_installed_transformers_in_a_child(saved: Path, tmp_path: Path) -> None:
    found = read_by(["vllm", "llama-cpp"], Model(saved), questions(), home=tmp_path, report=lambda text: None)
    cells = {(item.reader, item.form): item for item in found.cells}
    own = cells["transformers", "merged"]
    assert own.status == "works" and own.answers == 7 and own.stopped
    assert (cells["transformers", "adapter"].status, cells["transformers", "adapter"].why) == (
        "not run", "there is no adapter",
    )  # fmt: skip
    assert cells["llama-cpp", "gguf"].why == "there is no GGUF file"
    assert cells["vllm", "merged"].status == "not run"
    assert not (tmp_path / "readers").exists(), "nothing is installed for what is not run"


def test_files_as_a_release_writes_them_read_the_same(saved: Path, tmp_path: Path) -> None:
    reference = read(saved)
    published = as_published(saved, tmp_path / "published")
    assert cell(published, reference).status == "works"

    unended = changed(published, tmp_path / "unended", "generation_config.json", without=["eos_token_id"])
    found = cell(unended, reference)
    assert found.status == "fails" and found.why and "answers do not stop at <|eot_id|>" in found.why
    assert "answers go on after <|eot_id|>" in [*_all(unended, reference)]

    other = changed(published, tmp_path / "other", "config.json", rope_theta=1e4, rope_parameters=None)
    assert "beyond rounding" in str(cell(other, reference).why)

    silent = changed(published, tmp_path / "silent", "tokenizer_config.json", without=["chat_template"])
    (silent / "chat_template.jinja").unlink()
    assert "the chat template cannot be used" in str(cell(silent, reference).why)


def test_a_merge_keeps_the_template_of_the_base_where_older_readers_look(saved: Path, tmp_path: Path) -> None:
    write_companions(saved, tmp_path, dtype="float32")
    template = (saved / "chat_template.jinja").read_text("utf-8")
    assert (tmp_path / "chat_template.jinja").read_text("utf-8") == template
    assert json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))["chat_template"] == template


def _all(folder: Path, reference: Report) -> list[str]:
    from hubkit.models.readers.comparing import _problems

    return list(_problems(read(folder), Expected(reference, _end_of_turn(folder)), "merged"))


def test_a_reader_that_is_killed_or_takes_too_long_leaves_a_reason(saved: Path) -> None:
    late = ask(reader_of("transformers"), None, Places(saved, saved), questions(), timeout=0.01)
    assert late.not_run and "more than 0 seconds" in late.not_run
    found = read_by([], Model(saved), questions(), home=saved, report=lambda text: None, timeout=0.01)
    assert [cell.status for cell in found.cells] == ["not run", "not run"]
    assert found.broken == (("transformers", "merged weights", late.not_run),)


def test_every_reader_is_pinned_without_torch() -> None:
    assert len(set(NAMES)) == len(READERS)
    for reader in READERS:
        assert reader.script.is_file()
        assert "torch" not in pins(reader)
        assert all(version and "*" not in version for version in pins(reader).values())
        assert reader.lock is None or reader.lock.exists()
    assert pins(reader_of("transformers-4"))["transformers"].startswith("4.")
    with pytest.raises(UsageError, match="no reader 'x'"):
        reader_of("x")
