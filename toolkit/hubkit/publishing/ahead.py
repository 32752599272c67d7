"""The weights of a variant, uploaded before it is published: its large files only, and to no branch.

A Hub keeps large files by their digests. What is sent here is in no commit, so nobody sees it; the commit that is made
after the gates names it, and it is not sent again. When a gate refuses the variant it stays in the storage of the repo
until the Hub removes it (the embedded one by `hubkit hub gc`). So a recipe asks for it: `preupload: true`.

A public repo that does not exist yet is not created for it: an empty repo would be seen before the gates.
"""

from __future__ import annotations

from hubkit.core.files import Manifest
from hubkit.core.numbers import counted, size
from hubkit.hub.client import Hub, Visibility
from hubkit.hub.commits import addition
from hubkit.hub.uploads import upload
from hubkit.models.merging.merged import MergedWeights
from hubkit.publishing.bundle import of_models, refuse_unfit
from hubkit.recipe.names import MAIN
from hubkit.training.adapter import TrainedAdapter


def upload_weights(hub: Hub, repo: str, visibility: Visibility, merged: MergedWeights, adapter: TrainedAdapter) -> str:
    """Upload the safetensors files of ``merged`` and ``adapter`` for ``repo``; returns what was done, in words.

    They are screened before, as the bundle is. RefusedError when they must not be published.
    """
    if not hub.repo_exists(repo):
        if visibility == "public":
            return f"nothing was uploaded early, because the public repo {repo} does not exist yet"
        hub.ensure_repo(repo, visibility)
    files, known, _ = of_models(merged, adapter)
    refuse_unfit(files, known, merged)
    large = [path for path in sorted(files) if path.endswith(".safetensors")]
    upload(hub, repo, MAIN, [addition(path, files[path], known[path], in_lfs=True) for path in large])
    content = Manifest({path: known[path] for path in large})
    return f"{counted(len(large), 'file')} ({size(content.size)}) uploaded while the models were measured"
