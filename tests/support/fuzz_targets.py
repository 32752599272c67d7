"""What is fuzzed: everything that reads what strangers wrote. Each target raises when an input was too much for it.

``HubkitError`` and its like are answers; any other exception, a signal, 2 s of processor time or 3 GiB are not.
"""

from __future__ import annotations

from fuzz_parsers import (
    JSON_WORDS,
    MARKDOWN_WORDS,
    SAFETENSORS_WORDS,
    YAML_WORDS,
    card_seeds,
    front_matter,
    manifest,
    manifest_seeds,
    recipe,
    recipe_seeds,
    safetensors,
    safetensors_seeds,
)
from fuzz_samples import kept
from fuzz_server import (
    COMMIT_WORDS,
    GIT_WORDS,
    commit_body,
    commit_seeds,
    damaged_repo,
    lfs_batch,
    lfs_seeds,
    repo_seeds,
)
from fuzz_templates import JINJA_WORDS, chat_template, template_seeds
from fuzzing import Target

TARGETS = {
    target.name: target
    for target in (
        Target(
            "front-matter",
            front_matter,
            lambda: [*card_seeds(), *kept("front-matter")],
            YAML_WORDS + MARKDOWN_WORDS,
            100_000,
        ),
        Target(
            "chat-template", chat_template, lambda: [*template_seeds(), *kept("chat-template")], JINJA_WORDS, 20_000
        ),
        Target(
            "safetensors-header",
            safetensors,
            lambda: [*safetensors_seeds(), *kept("safetensors-header")],
            SAFETENSORS_WORDS,
            200_000,
        ),
        Target("commit-body", commit_body, lambda: [*commit_seeds(), *kept("commit-body")], COMMIT_WORDS, 100_000),
        Target("lfs-batch", lfs_batch, lambda: [*lfs_seeds(), *kept("lfs-batch")], JSON_WORDS, 300_000),
        Target("damaged-repo", damaged_repo, lambda: [*repo_seeds(), *kept("damaged-repo")], GIT_WORDS, 4_000),
        Target("manifest", manifest, lambda: [*manifest_seeds(), *kept("manifest")], JSON_WORDS, 200_000),
        Target("recipe", recipe, lambda: [*recipe_seeds(), *kept("recipe")], YAML_WORDS, 100_000),
    )
}
