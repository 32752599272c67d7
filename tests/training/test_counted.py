"""What of a training counts for its key: everything, but for what is known to leave the weights alone."""

from dataclasses import fields

import pytest

from hubkit.models.base import PinnedBase
from hubkit.training.arguments import config_class
from hubkit.training.counted import (
    BASE_WITH_EFFECT,
    BASE_WITHOUT_EFFECT,
    WITH_EFFECT,
    WITHOUT_EFFECT,
    counted_args,
)
from hubkit.training.shared import counted_tokens


def test_every_argument_of_trl_is_known_to_shape_the_weights_or_not_to() -> None:
    """A new TRL with a new argument fails here: put it into one of the lists of hubkit.training.counted."""
    known = {item.name for method in ("dpo", "sft") for item in fields(config_class(method)) if item.init}
    assert known - WITH_EFFECT - WITHOUT_EFFECT.keys() == set()
    assert WITH_EFFECT & WITHOUT_EFFECT.keys() == set()
    assert (WITH_EFFECT | WITHOUT_EFFECT.keys()) - known == set(), "no longer an argument of TRL"


def test_every_fact_about_the_base_is_known_to_shape_the_weights_or_not_to() -> None:
    known = {item.name for item in fields(PinnedBase)} - {"folder"}
    assert known == BASE_WITH_EFFECT | BASE_WITHOUT_EFFECT.keys()


@pytest.mark.parametrize("reasons", [WITHOUT_EFFECT, BASE_WITHOUT_EFFECT])
def test_each_that_does_not_count_has_a_reason(reasons: dict[str, str]) -> None:
    assert all(reason.startswith("only ") for reason in reasons.values())


def test_an_unknown_argument_counts() -> None:
    given = {"learning_rate": 1e-4, "logging_steps": 1, "report_to": "wandb", "of_a_later_trl": True}
    assert counted_args(given) == {"learning_rate": 1e-4, "of_a_later_trl": True}


def test_tokens_are_known_if_the_last_step_was_not_logged() -> None:
    """TRL logs every 10 steps by default, and its summary at the end has the tokens of all."""
    history = [{"loss": 1.0, "num_tokens": 900.0, "step": 100}, {"train_runtime": 1.0, "num_tokens": 936, "step": 104}]
    assert counted_tokens(history, 104) == (936, 936)
    assert counted_tokens(history[:1], 104) == (900, None) and counted_tokens(history[:1], 100) == (900, 900)
    assert counted_tokens([{"loss": 1.0, "step": 4}], 4) == (None, None)
