"""A model, devices and trainings whose costs are known."""

from __future__ import annotations

from hubkit.pipeline.costs import training
from hubkit.pipeline.costs.devices import TABLE, Device
from hubkit.pipeline.costs.formulas import (
    ModelSize,
)
from hubkit.pipeline.costs.sources import Rows
from hubkit.pipeline.costs.training import TrainingWork
from hubkit.recipe.models import Training

MISTRAL = ModelSize(
    parameters=7_241_748_480,
    multiplied=7_110_668_288,
    linear=6_979_321_856,
    layers=32,
    hidden=4096,
    intermediate=14_336,
    vocabulary=32_002,
    attention=4096,
    cached=2048,
)


LAPTOP = Device("CPU, 4 cores", "CPU", False, 100e9, 0.35, 10e9, 16 * 10**9, 2e-4, "measured here", 40e9, "float32")


H100 = next(device for device in TABLE if device.short == "H100")


def work(rows: int = 1000, batch: int = 4, tokens: float = 400, **args: object) -> TrainingWork:
    given = {"per_device_train_batch_size": batch, "num_train_epochs": 1, "max_length": 8192, **args}
    found = training.work_of(Training(uses="dpo", data="pairs", args=given), "mine", Rows(rows, tokens))
    assert found is not None
    return found
