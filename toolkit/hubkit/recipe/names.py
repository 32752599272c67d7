"""Names for packages that read no recipe: its file, and the branches that have a meaning of their own."""

from __future__ import annotations

RECIPE_FILE = "hubkit.yaml"
MAIN = "main"
"""The branch that people load when they name no revision. It moves last."""
ADOPT = "adopt"
"""The stage that takes an adapter or weights which were trained elsewhere."""
STAGING = "staging"
"""Below it, a release uploads and verifies before it moves a variant's branch: ``staging/main``."""
GGUF = "gguf"
"""The branch of main's GGUF files, and the folder where they lie beside the weights."""


def model_name(repo: str, branch: str) -> str:
    """What the variant on ``branch`` of ``repo`` is called in names of files: my-model, or my-model-dpo-v0."""
    name = repo.rpartition("/")[2]
    return name if branch == MAIN else f"{name}-{branch.replace('/', '-')}"


def gguf_repo(repo: str, branch: str) -> str:
    """The repo of its own that GGUF files of the variant on ``branch`` of ``repo`` have, if the recipe names none."""
    return f"{repo.rpartition('/')[0]}/{model_name(repo, branch)}-{GGUF.upper()}"
