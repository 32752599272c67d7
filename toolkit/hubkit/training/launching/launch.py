"""The recipe's ``launch`` of a training stage, together with the config file of accelerate that it names.

The number of processes counts for the key of an adapter as what it does to the batch: two processes with batches of
four are one with batches of eight (:func:`counted_together`). Of the config file counts what can change the weights:
mixed precision and how the model is sharded, not addresses and ports (:data:`PLACES`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hubkit.core.errors import HubkitError
from hubkit.core.numbers import counted
from hubkit.core.yaml_text import parse_yaml
from hubkit.recipe.artifact import NamedFile
from hubkit.recipe.launch import Launch
from hubkit.recipe.values import without_folders
from hubkit.training.batch_size import ACCUMULATION, PER_DEVICE, TRL_DEFAULT, rows_a_step

Kind = Literal["DDP", "FSDP", "DeepSpeed"]
"""How the processes share the training."""
_DDP = frozenset({"", "NO", "MULTI_GPU", "MULTI_CPU"})
"""Values of accelerate's ``distributed_type`` that leave the model whole on each device."""
_PLACES = """
    compute_environment debug enable_cpu_affinity gpu_ids machine_rank main_process_ip main_process_port
    main_training_function num_machines num_processes rdzv_backend rdzv_conf same_network use_cpu
    command_file commands mpirun_config tpu_env tpu_name tpu_use_cluster tpu_use_sudo tpu_vm tpu_zone
"""
PLACES = frozenset(_PLACES.split())
"""Keys of accelerate's config file that only say where the processes run and how they find each other."""


@dataclass(frozen=True)
class Launching:
    """How the processes of a training stage are started. ``processes`` is None where neither file says it.

    ``settings`` is the content of the config file ``name``, and ``problem`` why it cannot be read.
    """

    processes: int | None
    machines: int = 1
    command: str | None = None
    name: str | None = None
    file: NamedFile | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[NamedFile, ...] = ()
    """Files that the config file names: DeepSpeed's own."""
    problem: str | None = None

    @classmethod
    def of(cls, launch: Launch | None, folder: Path) -> Launching | None:
        """Read the config file that ``launch`` names beside the recipe in ``folder``. None for one plain process."""
        if launch is None or (launch.processes == 1 and launch.config is None):
            return None
        if launch.config is None:
            return cls(launch.processes, launch.machines or 1, launch.command)
        file = NamedFile.beside(folder, launch.config)
        settings, problem = _read(file, launch.config)
        return cls(
            processes=launch.processes or _number(settings.get("num_processes")),
            machines=launch.machines or _number(settings.get("num_machines")) or 1,
            command=launch.command,
            name=without_folders(launch.config),
            file=file,
            settings=settings,
            beside=tuple(NamedFile.beside(folder, name) for name in _named_by(settings)),
            problem=problem,
        )

    @classmethod
    def of_measuring(cls, launch: Launch | None, folder: Path) -> Launching | None:
        """The processes that measure together, each with a whole model: as many as train on one machine."""
        training = cls.of(launch, folder)
        return cls(training.here) if training is not None and training.here > 1 else None

    @property
    def count(self) -> int:
        """How many processes train; 1 where that is unknown, which is refused before."""
        return self.processes or 1

    @property
    def here(self) -> int:
        """How many of them run on one machine."""
        return max(1, self.count // self.machines)

    @property
    def distributed_type(self) -> str:
        """Accelerate's own word; empty without a config file."""
        return str(self.settings.get("distributed_type") or "").rpartition(".")[2].upper()

    @property
    def kind(self) -> Kind | None:
        """How the processes share the training; None for what hubkit does not start."""
        if self.distributed_type in _DDP:
            return "DDP"
        known: dict[str, Kind] = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed"}
        return known.get(self.distributed_type)

    def part(self, name: str) -> Mapping[str, Any]:
        """The mapping ``name`` of the config file (``fsdp_config``); empty when it has none."""
        found = self.settings.get(name)
        return found if isinstance(found, Mapping) else {}

    def in_words(self) -> str:
        """Such as '8 processes on 2 machines, FSDP'."""
        words = counted(self.count, "process", "processes")
        words += f" on {counted(self.machines, 'machine')}" if self.machines > 1 else ""
        return words + (f", {self.kind}" if self.kind not in (None, "DDP") else "")

    def counted(self) -> dict[str, Any]:
        """What of the config file can change the weights, and nothing where each process trains the whole model."""
        kept = {name: value for name, value in self.settings.items() if name not in PLACES and value not in (None, {})}
        if self.distributed_type in _DDP:
            kept.pop("distributed_type", None)
        for name, plain in (("mixed_precision", "no"), ("downcast_bf16", "no"), ("downcast_bf16", False)):
            if kept.get(name) == plain:
                del kept[name]
        return {**kept, **({"files": [file.digest for file in self.beside]} if self.beside else {})}


def counted_together(args: Mapping[str, Any], batch_size: int | None, launching: Launching | None) -> dict[str, Any]:
    """``args`` of a trainer as one process would have them, with the rows of all processes in its batch.

    Where the recipe states the rows of a step (``batch_size``, `auto`), they are the same for any number of processes.
    """
    if launching is None or launching.count == 1 or rows_a_step(args, batch_size) is not None:
        return dict(args)
    batch = args.get(PER_DEVICE, TRL_DEFAULT)
    return {**args, PER_DEVICE: batch * launching.count} if isinstance(batch, int) else dict(args)


def global_batch(args: Mapping[str, Any], batch_size: int | None, launching: Launching) -> int | None:
    """Rows from which one step of the optimizer is made, in all processes together; None where that is unknown."""
    if (stated := rows_a_step(args, batch_size)) is not None:
        return stated
    batch, together = args.get(PER_DEVICE, TRL_DEFAULT), args.get(ACCUMULATION, 1)
    known = isinstance(batch, int) and isinstance(together, int)
    return batch * together * launching.count if known else None


def _read(file: NamedFile, name: str) -> tuple[Mapping[str, Any], str | None]:
    if not file.path.is_file():
        return {}, f"there is no file {name!r} beside the recipe"
    try:
        value, _ = parse_yaml(file.path.read_text(encoding="utf-8"), name)
    except HubkitError as error:
        return {}, error.message.rstrip(".")
    except (OSError, UnicodeDecodeError) as error:
        return {}, f"{name} cannot be read: {error}"
    if not isinstance(value, Mapping):
        return {}, f"{name} is not a config file of accelerate: it is no mapping of keys"
    return value, None


def _named_by(settings: Mapping[str, Any]) -> list[str]:
    found = settings.get("deepspeed_config")
    name = found.get("deepspeed_config_file") if isinstance(found, Mapping) else None
    return [name] if isinstance(name, str) else []


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
