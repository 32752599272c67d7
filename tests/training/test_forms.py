"""Forms of datasets: each is taken, as the exact conversation that it becomes, or refused by a sentence with a way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_forms import FORMS, Form

from hubkit.core.errors import UsageError
from hubkit.recipe.models import Source
from hubkit.training.data import loading, mappings
from hubkit.training.data.files import DataFiles
from hubkit.training.data.mappings import Kind, must_train


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_form_is_taken_or_refused_in_a_sentence_that_says_how(form: Form, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in form.rows), encoding="utf-8")
    source = Source.model_validate({"file": "rows.jsonl", **form.source})
    named = DataFiles.of(tmp_path, [source]).of_source(source)
    wanted: Kind = mappings.METHOD_KINDS[form.method]
    if form.refused:
        with pytest.raises(UsageError) as error:
            found = loading.check_files(named, source, wanted)
            must_train("mine", form.method, "mine", {found.kind})
        assert form.refused in error.value.message
        assert form.says_how in f"{error.value.message} {error.value.hint}"
        assert "\n" not in error.value.message
        return
    found = loading.check_files(named, source, wanted)
    must_train("mine", form.method, "mine", {found.kind})
    loaded = loading.load(None, source, named)  # type: ignore[arg-type]  # no Hub is asked for a file
    read = list(found.read(loaded.rows))
    assert tuple(item.row for item in read if item.row) == form.becomes
    assert {item.number: item.reason for item in read if item.reason} == form.dropped


def test_there_are_forty_five_forms_and_each_has_its_own_name() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS) >= 45
