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
