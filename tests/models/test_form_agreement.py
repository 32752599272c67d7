"""How far two forms of a model agree, beside what rounding alone changes; only what is far beyond it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hubkit.core.errors import ConflictError
from hubkit.models.chat import form_agreement
from hubkit.models.chat.form_agreement import Agreement, FormAgreement, KeptPredictions, keep, predict, predict_wider

TEXTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], list(range(3, 40))]
MEASURED = FormAgreement("bfloat16", "float32", 32, Agreement(4000, 0.972, 0.3), Agreement(4000, 0.989, 0.25))


@pytest.mark.parametrize("same", [0.9959, 0.9725, 0.95, 0.90])
def test_what_right_merges_show_is_no_reason_to_refuse(same: float) -> None:
    replace(MEASURED, forms=Agreement(4000, same, 9.9)).refuse_if_apart("main")
    replace(MEASURED, forms=Agreement(4000, same, 9.9), floor=None, no_floor="too large").refuse_if_apart("main")


def test_what_lies_far_beyond_the_floor_is_refused() -> None:
    apart = replace(MEASURED, forms=Agreement(4000, 0.88, 0.3))
    with pytest.raises(
        ConflictError, match=r"main: .* another next token at 12\.0 % of 4,000 positions \(at most 11"
    ) as no:
        apart.refuse_if_apart("main")
    assert "rounding alone changes 1.1 %" in no.value.message
    replace(apart, floor=Agreement(4000, 0.98, 0.3)).refuse_if_apart("main")
    with pytest.raises(ConflictError, match=r"at most 10\.0 %"):
        replace(apart, floor=None).refuse_if_apart("main")
    with pytest.raises(ConflictError):
        replace(MEASURED, forms=Agreement(1, float("nan"), 0.0)).refuse_if_apart("main")


def test_a_model_agrees_with_itself_and_not_with_another(make_model: Any, tmp_path: Any) -> None:
    model = make_model()
    found = predict(model, TEXTS)
    assert found.against(predict(model, TEXTS)) == Agreement(46, 1.0, 0.0)
    assert found.against(predict(make_model(seed=7), TEXTS)).same_next_token < 0.5
    keep(tmp_path, TEXTS, {"merged": found})
    kept = KeptPredictions.load(tmp_path, 2)
    assert kept is not None and kept.reproduced("merged", model) == Agreement(9, 1.0, 0.0)
    assert kept.reproduced("merged", make_model(seed=7)).same_next_token < 1
    assert KeptPredictions.load(tmp_path / "none", 2) is None
    wider = predict_wider(model, TEXTS)
    assert not isinstance(wider, str) and wider.dtype == "float64"
    assert 0 < found.against(wider).max_difference < 1e-4


def test_a_floor_that_does_not_fit_into_memory_is_left_out(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_agreement, "_free_memory", lambda device: 1000)
    reason = predict_wider(make_model(), TEXTS)
    assert isinstance(reason, str) and reason.startswith("float64 needs ") and reason.endswith(" are free")
