"""Trackers (`report_to`): where their files go, what a training is called in them, and the page that shows it.

transformers' own callbacks do the reporting. Their files are kept in the run: while a stage trains in its ``scratch``
folder, afterwards with its artifact, in ``tracking/``. A place that the user chose by the tracker's own variable
(``TENSORBOARD_LOGGING_DIR``, ``WANDB_DIR``, ``MLFLOW_TRACKING_URI``, ``TRACKIO_DIR``) is left to them.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from hubkit.training.contract import Settings
from hubkit.training.launching import ranks

FOLDER = "tracking"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "swanlab": ("swanlab",),
    "neptune": ("neptune",),
    "dvclive": ("dvclive",),
    "codecarbon": ("codecarbon",),
}
"""The modules of which a tracker needs one. Each is what pip installs under the same name."""


def named(report_to: Any) -> tuple[str, ...]:
    """The trackers that ``report_to`` names: a name, a list of them, or nothing."""
    if report_to in (None, "none"):
        return ()
    return (report_to,) if isinstance(report_to, str) else tuple(str(name) for name in report_to if name != "none")


def missing(report_to: Any) -> tuple[str, ...]:
    """The packages that the trackers of ``report_to`` need and that are not installed."""
    wanted = [PACKAGES[name] for name in named(report_to) if name in PACKAGES]
    return tuple(modules[0] for modules in wanted if not any(find_spec(module) for module in modules))


def problem(report_to: Any) -> str | None:
    """Why a tracker could not begin when the stage trains, after the base was loaded; None where nothing is known."""
    if "mlflow" in named(report_to) and not os.environ.get("MLFLOW_TRACKING_URI") and not find_spec("sqlalchemy"):
        return "without a server mlflow needs sqlalchemy: pip install mlflow, or set MLFLOW_TRACKING_URI"
    if "wandb" not in named(report_to) or os.environ.get("WANDB_MODE") in {"offline", "disabled", "dryrun"}:
        return None
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return None
    try:
        known = import_module("wandb").Api().api_key
    except Exception:  # it raises what it likes when there is no key
        known = None
    return None if known else "Weights & Biases has no API key on this machine"


def defaults(settings: Settings) -> dict[str, Any]:
    """Arguments for a training that is reported: the names of the project and of the run, where the recipe has none."""
    if not named(settings.args.get("report_to")):
        return {}
    return {"run_name": f"{settings.project}-{settings.name}".strip("-"), "project": settings.project or "hubkit"}


@contextmanager
def kept_in(folder: Path, settings: Settings, callbacks: Sequence[Any]) -> Iterator[None]:
    """Let the trackers among ``callbacks`` write to ``folder``, and resume the runs that they began before a kill."""
    trackers = named(settings.args.get("report_to")) if ranks.is_main() else ()
    before = dict(os.environ)
    try:
        if trackers:
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in _variables(folder, settings, trackers).items():
                os.environ.setdefault(name, value)
            for callback in callbacks:
                if type(callback).__name__ == "TensorBoardCallback" and callback.logging_dir is None:
                    callback.logging_dir = str(folder / "tensorboard")
        yield
        _finish(trackers, 0)
    except BaseException:
        _finish(trackers, 1)
        raise
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def _finish(trackers: Sequence[str], code: int) -> None:
    """End the run of wandb, which writes the rest of its files only then; transformers leaves it open."""
    wandb = sys.modules.get("wandb")
    if "wandb" in trackers and wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=code)


def trackio_folder(environment: Mapping[str, str]) -> Path:
    """Where trackio keeps its projects by default, for a user with ``environment``: `trackio show` reads them there.

    A worker has an HF_HOME of its own, in which nobody would look for them.
    """
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or f"{cache}/huggingface"
    return Path(environment.get("TRACKIO_DIR") or f"{home}/trackio").expanduser()


def _variables(folder: Path, settings: Settings, trackers: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if "wandb" in trackers:
        found |= {"WANDB_DIR": str(folder), "WANDB_PROJECT": settings.project or "hubkit"}
        found |= {"WANDB_RUN_ID": _same_each_time(folder / "wandb-run-id"), "WANDB_RESUME": "allow"}
    if "mlflow" in trackers:
        found |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": settings.project,
        }
        if (begun := folder / "mlflow-run-id").is_file():
            found["MLFLOW_RUN_ID"] = begun.read_text()
    if "codecarbon" in trackers:
        found["CODECARBON_OUTPUT_DIR"] = str(folder)
    return found


def _same_each_time(path: Path) -> str:
    """An id that the first attempt of a training writes to ``path``, and the later ones read."""
    if not path.is_file():
        path.write_text(uuid4().hex[:12])
    return path.read_text()


def begun(folder: Path, settings: Settings, callbacks: Sequence[Any]) -> list[dict[str, Any]]:
    """Each tracker that the training reports to, with the ``url`` of its page where that is known and public."""
    report_to = settings.args.get("report_to")
    if (mlflow := sys.modules.get("mlflow")) and "mlflow" in named(report_to) and (run := mlflow.active_run()):
        (folder / "mlflow-run-id").write_text(str(run.info.run_id))
    found = []
    for name in named(report_to):
        url = _url(name, callbacks)
        found.append({"name": name, **({"url": url} if settings.links and url and is_public(url) else {})})
    return found


def _url(name: str, callbacks: Sequence[Any]) -> str | None:
    module = sys.modules.get(name)
    if name == "wandb" and module is not None and module.run is not None:
        return None if getattr(module.run, "offline", False) else module.run.url
    if name == "mlflow" and module is not None and (run := module.active_run()):
        return f"{module.get_tracking_uri()}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    if name == "trackio":
        spaces = [
            getattr(callback, "_static_space_id", None) or getattr(callback, "_space_id", None)
            for callback in callbacks
            if type(callback).__name__ == "TrackioCallback"
        ]
        return f"https://huggingface.co/spaces/{spaces[0]}" if spaces and spaces[0] else None
    if name == "comet_ml" and module is not None and (experiment := module.get_running_experiment()):
        return str(experiment.url)
    return None


def is_public(url: str) -> bool:
    """Whether a reader elsewhere may open ``url``: not this machine, and no address of a private network."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or parts.username or "." not in host:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return not host.endswith((".local", ".localhost", ".internal", ".lan"))


def move(folder: Path, out: Path) -> None:
    """Move what the trackers wrote in ``folder`` to the artifact in ``out``, without links to places elsewhere."""
    if not folder.is_dir():
        return
    for path in [path for path in folder.rglob("*") if path.is_symlink()]:
        path.unlink()
    for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
    if any(folder.iterdir()):
        shutil.move(folder, out / FOLDER)
