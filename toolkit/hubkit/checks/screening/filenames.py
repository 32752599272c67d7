"""Rules on the names of a tree: what git or a disk cannot hold, what holds secrets, training state."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from hubkit.checks.rules import NAME, PICKLE, PRIVATE_FILE, SECRET, TRAINING_STATE
from hubkit.checks.screening import secrets
from hubkit.core.findings import Finding
from hubkit.core.names import path_problem

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz"})
_PRIVATE = re.compile(
    r"\.env(?:rc|\..*)?|[._]netrc|\.git-credentials|\.npmrc|\.pypirc|\.htpasswd|\.pgpass|\.my\.cnf|\.boto|\.s3cfg"
    r"|\.dockercfg|\.vault-token|\.(?:bash|zsh|python|psql|mysql)_history|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?"
    r"|.*\.(?:pem|key|p12|pfx|kdbx|ppk|jks|keystore)|kaggle\.json|stored_tokens|credentials(?:\.json)?"
    r"|client_secret.*\.json|service[-_]account.*\.json|secrets?\.(?:ya?ml|json|toml)"
)
_EXAMPLE = re.compile(r"\.env\.(?:example|sample|template|dist)")
_PRIVATE_FOLDERS = frozenset({".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure"})
_TRAINING = re.compile(
    r"(?:optimizer|scheduler|scaler)(?:_\d+)?\.(?:pt|pth|bin|safetensors)|rng_state.*|random_states_\d+\.pkl"
    r"|trainer_state\.json|training_args\.bin|.*\.distcp|events\.out\.tfevents.*|zero_pp_rank_.*|.*_optim_states\.pt"
)
_TRAINING_FOLDERS = re.compile(r"checkpoint-\d+|global_step\d+|wandb|runs|mlruns|lightning_logs|\.ipynb_checkpoints")


def find(paths: Iterable[str]) -> Iterator[Finding]:
    """What is wrong with the names of a tree that holds ``paths``; at most one finding for each path."""
    known = sorted(paths)
    names: dict[str, str] = {}
    for path in known:
        if problem := path_problem(path):
            yield NAME.finding(f"{problem[:1].upper()}{problem[1:]}.", file=path)
        elif twin := _twin(path, names):
            message = f"Collides with {twin!r} on a case-insensitive disk."
            yield NAME.finding(message, file=path)
        elif _is_private(path):
            yield PRIVATE_FILE.finding("The file name suggests secrets.", file=path)
        elif _is_training_state(path):
            yield TRAINING_STATE.finding(
                "Training state (optimizer, scheduler or logs), not part of the model.", file=path
            )
        elif what := secrets.first(path):
            yield SECRET.finding(f"Its name holds {what}.", file=path)
        elif PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES:
            yield PICKLE.finding("This format can run code when it is loaded; use safetensors.", file=path)
    folders = {str(folder): path for path in known for folder in PurePosixPath(path).parents}
    for path in folders.keys() & set(known):
        yield NAME.finding(f"A file that is also the folder of {folders[path]!r}.", file=path)


def _twin(path: str, names: dict[str, str]) -> str | None:
    """A path met before, or a folder of one, that a disk may take for ``path`` or one of its folders."""
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        spelt = "/".join(parts[:count])
        if (other := names.setdefault(_folded(spelt), spelt)) != spelt:
            return other
    return None


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", "/".join(part.rstrip(" .") for part in path.split("/")).casefold())


def _is_private(path: str) -> bool:
    *folders, name = path.lower().split("/")
    if _PRIVATE.fullmatch(name) and not _EXAMPLE.fullmatch(name):
        return True
    return not _PRIVATE_FOLDERS.isdisjoint(folders)


def _is_training_state(path: str) -> bool:
    *folders, name = path.lower().split("/")
    return bool(_TRAINING.fullmatch(name)) or any(_TRAINING_FOLDERS.fullmatch(folder) for folder in folders)
