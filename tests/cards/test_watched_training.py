"""What a card shows of a training that was watched: the stop rate beside the loss, and the page of a tracker."""

from __future__ import annotations

import io
from typing import Any

import card_samples as samples
import pytest
from PIL import Image

from hubkit.cards.evidence import Evidence
from hubkit.cards.pictures import TRAINING, draw
from hubkit.cards.render import render_card
from hubkit.cards.template_context import build_context

PAGE = "https://wandb.ai/me/tiny/runs/abc"


def evidence(**more: Any) -> Evidence:
    """The tiny release, with ``more`` in the report of its DPO."""
    whole = samples.evidence()
    told = {**whole.files["train[dpo]"]["training.json"], **more}
    return Evidence({**whole.files, "train[dpo]": {"training.json": told}}, whole.template)


def probes(*stopped: int) -> list[dict[str, Any]]:
    return [
        {
            "step": 2 + 50 * place,
            "stopped": count,
            "prompts": 16,
            "rate": count / 16,
            "mean_tokens": 9.0,
            "seconds": 0.3,
        }
        for place, count in enumerate(stopped)
    ]


def test_the_stop_rate_while_training_is_drawn_below_the_loss_and_told_in_words() -> None:
    context = build_context(samples.recipe(), "main", evidence(probes=probes(16, 4, 0)))
    card = render_card(context)
    assert "<summary>Training loss and stop rate</summary>" in card.text
    assert ". Stop rate while training: stage dpo from 100 % to 0 %](" in card.text
    assert (
        "| stop rate while training, first and last | 100 % (step 2), 0 % (step 102); 16 held-out prompts |"
        in card.text
    )
    single = render_card(build_context(samples.recipe(), "main", evidence(probes=probes(4)))).text
    assert ". Stop rate while training: stage dpo 25.0 % after step 2](" in single
    assert "| stop rate while training | 25.0 % (step 2); 16 held-out prompts |" in single
    plain = build_context(samples.recipe(), "main", evidence())
    assert "while training" not in render_card(plain).text
    heights = [Image.open(io.BytesIO(draw(each)[TRAINING])).height for each in (plain, context)]
    assert heights == [600, 1040]


@pytest.mark.parametrize(
    ("tracking", "linked"), [(None, PAGE), ("none", None), ("https://example.org/mine", "https://example.org/mine")]
)
def test_the_page_of_the_tracker_is_linked_unless_the_recipe_says_otherwise(
    tracking: str | None, linked: str | None
) -> None:
    found = evidence(trackers=[{"name": "wandb", "url": PAGE}, {"name": "tensorboard"}])
    text = render_card(build_context(samples.recipe(tracking=tracking), "main", found)).text
    reports = [line for line in text.splitlines() if "Training report" in line]
    assert len(reports) == (1 if linked else 0), reports
    assert all(f"<{linked}>" in line for line in reports)
    assert "tensorboard" not in text
