"""The embedded Hub refuses the metadata that lint and `hubkit space deploy` call refused, and no other."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hubkit.cards.validate import problems_of
from hubkit.core.bounded_yaml import load_bounded
from hubkit.core.space_metadata import space_problems
from hubkit.server.repos import metadata

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([3.1, 3.27, 0.5])
    | st.sampled_from(["mit", "other", "en", "zh-CN", "no", "gpt2", "a/b", "./out", "red", "orange", "gradio", "3.27",
                       "6.31.0", "x" * 70, "", "mine", "text-generation", "merge", "1h"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "results", "type"]), inner),
    max_leaves=5,
)  # fmt: skip
OF_MODELS = ("license", "language", "base_model", "datasets", "new_version", "tags", "pipeline_tag", "widget",
             "base_model_relation", "library_name", "license_name", "license_link", "model-index")  # fmt: skip
OF_SPACES = ("sdk", "colorFrom", "colorTo", "title", "emoji", "short_description", "sdk_version", "python_version",
             "app_file", "startup_duration_timeout", "pinned", "license", "datasets", "tags")  # fmt: skip


def card(data: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(data)}---\n# Card\n"


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(OF_MODELS), VALUES, min_size=1, max_size=4))
def test_a_models_card_is_refused_by_both_or_by_neither(data: dict[str, Any]) -> None:
    text = card(data)
    errors, _ = metadata.check(text, "model")
    problems = [item for item in problems_of(text) if item.level == "error" and item.refused_by == "The Hub"]
    assert errors == [item.hub for item in problems] and all(errors)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(OF_SPACES), VALUES, min_size=1, max_size=4))
def test_a_spaces_card_is_refused_by_both_or_by_neither(data: dict[str, Any]) -> None:
    text = card(data)
    errors, _ = metadata.check(text, "space")
    read = load_bounded(yaml.safe_dump(data))
    assert errors == [item.hub for item in space_problems(read) if item.level == "error" and item.hub]


@pytest.mark.parametrize(
    "text", ["---\na: [\n---\n", "---\na: 1\na: 2\n---\n", "---\n- 1\n---\n", "---\nx: &a *a\n---\n"]
)
def test_what_is_no_yaml_is_refused_by_both(text: str) -> None:
    for kind in ("model", "dataset", "space"):
        assert metadata.check(text, kind)[0]
    assert [item.level for item in problems_of(text)] == ["error"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"license": "mine"}, '"license" must be one of ['),
        ({"language": "zh-CN"}, '"language" must only contain lowercase characters'),
        ({"base_model": 5}, None),
        ({"license": "other", "language": ["en"], "tags": "x"}, None),
    ],
)
def test_a_datasets_card_has_the_rules_that_it_shares(data: dict[str, Any], says: str | None) -> None:
    errors, _ = metadata.check(card(data), "dataset")
    assert errors == [] if says is None else errors[0].startswith(says)
