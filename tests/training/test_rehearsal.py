"""A rehearsal: TRL's own trainers with a toy model. What is listed here must be true of the installed versions."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hubkit.training import arguments, rehearsal
from hubkit.training.rehearsal import Refusal, rehearse

METHODS: tuple[rehearsal.Method, ...] = ("dpo", "sft")


def args(**given: Any) -> dict[str, Any]:
    return arguments.defaults(Path("checkpoints"), 0) | given


def keys(method: rehearsal.Method) -> set[str]:
    return {item.name for item in fields(arguments.config_class(method))}


def test_each_argument_that_is_listed_is_one_of_the_installed_trl() -> None:
    known = keys("dpo") | keys("sft")
    listed = rehearsal.PLAIN | rehearsal.SKIPPED.keys() | rehearsal._TOY.keys() | arguments.RESERVED_ARGS.keys()
    assert listed <= known, "TRL has renamed or removed it"


def test_no_former_argument_is_one_of_the_installed_trl() -> None:
    assert not arguments.FORMER_ARGS.keys() & (keys("dpo") | keys("sft")), "TRL has it again"


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_are_rehearsed_without_a_refusal(method: rehearsal.Method) -> None:
    assert rehearse(method, args()) is None


def test_the_losses_that_trl_documents_are_trained_and_others_refused() -> None:
    help_text = next(
        item.metadata["help"] for item in fields(arguments.config_class("dpo")) if item.name == "loss_type"
    )
    documented = re.findall(r"`'(\w+)'`", help_text)
    assert {"sigmoid", "ipo", "sft"} <= set(documented)
    needs = {"label_smoothing": 0.1}
    assert rehearse("dpo", args(loss_type=documented, loss_weights=[1.0] * len(documented), **needs)) is None
    refused = rehearse("dpo", args(loss_type=[*documented, "sigmoidd"], **needs))
    assert refused is not None and "sigmoidd" in refused.words and not refused.package


def test_only_what_a_trainer_combines_is_rehearsed() -> None:
    plain = {"learning_rate": 1e-4, "lr_scheduler_type": "cosine", "logging_steps": 1, "report_to": "none"}
    assert not rehearsal.needed(plain)
    assert rehearsal.needed({**plain, "loss_type": ["ipo"]})
    assert rehearsal.needed({**plain, "lr_scheduler_type": "cosine_with_min_lr"})


def test_a_rehearsal_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    import torch
    from accelerate.state import AcceleratorState

    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert rehearse("sft", args(neftune_noise_alpha=3.0, bf16=True)) is None
    assert torch.equal(before, torch.get_rng_state())
    assert AcceleratorState._shared_state == {}, "the next trainer would get this one's precision"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (ValueError("No.\n  Not  so."), Refusal("No. Not so")),
        (AttributeError("'NoneType' object"), Refusal("AttributeError: 'NoneType' object")),
        (ImportError("pip install x"), Refusal("pip install x", package=True)),
        (RuntimeError("X requires y to be installed."), Refusal("X requires y to be installed", package=True)),
        (KeyError(), Refusal("KeyError")),
        (ValueError("First. " + "word " * 90), Refusal("First")),
        (ValueError("one of a, " + "b, " * 150), Refusal("one of a, " + "b, " * 115 + "b, and more")),
    ],
)
def test_a_refusal_is_one_line(error: Exception, refusal: Refusal) -> None:
    assert rehearsal.refusal(error) == refusal
