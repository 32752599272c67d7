"""The recipe's ``launch``: in how many processes a training runs, and on how many machines."""

from __future__ import annotations

from pydantic import Field, model_validator

from hubkit.recipe.values import Model


class Launch(Model):
    """How the processes of a training are started: by `accelerate launch`, one for each GPU."""

    processes: int | None = Field(
        None,
        gt=0,
        description="processes of the training on all machines together, one for each GPU; `num_processes` of "
        "`config` when absent",
    )
    machines: int | None = Field(
        None, gt=0, description="machines that the processes run on; `num_machines` of `config` when absent, or 1"
    )
    config: str | None = Field(
        None,
        min_length=1,
        description="a config file of accelerate beside the recipe (`accelerate config` writes one), for FSDP, "
        "DeepSpeed or mixed precision",
    )
    command: str | None = Field(
        None,
        min_length=1,
        description="with several machines, the command that starts a program on each of them, such as "
        "srun --nodes=2 --ntasks-per-node=1 --kill-on-bad-exit=1",
    )

    @model_validator(mode="after")
    def _enough(self) -> Launch:
        if self.processes is None and self.config is None:
            raise ValueError("write `processes`, or a `config` that has `num_processes`")
        if self.machines and self.processes and self.processes % self.machines:
            raise ValueError(f"{self.processes} processes cannot be spread evenly over {self.machines} machines")
        return self
