"""Signs what a step publishes, once: signatures are random, so what was signed in an earlier attempt is used again.

A step that runs again with the same files then makes no second commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hubkit.core.files import write_atomic
from hubkit.publishing.bundle import Bundle
from hubkit.publishing.manifest import SIGNATURE_PATH
from hubkit.publishing.provenance import PROVENANCE_PATH
from hubkit.publishing.signing import Signer
from hubkit.publishing.staged import WRITTEN
from hubkit.recipe.stage import Context


@dataclass(frozen=True)
class SignedOnce:
    """The ``signer`` of the step that runs in ``ctx``."""

    ctx: Context[Any, Any]
    signer: Signer

    def state(self, statement: bytes) -> bytes:
        """The signed ``statement`` of the provenance."""
        signer = self.signer
        return self._once(
            PROVENANCE_PATH, lambda kept: signer.has_stated(kept, statement), lambda: signer.state(statement)
        )

    def signed(self, bundle: Bundle, repo: str) -> Bundle:
        """``bundle``, which is for ``repo``, with its signature."""
        self.ctx.report("signing", 0.1)
        digests = {path: item.sha256 for path, item in bundle.manifest.files.items()}
        content = self._once(
            SIGNATURE_PATH,
            lambda kept: self.signer.is_signature_of(kept, digests),
            lambda: self.signer.sign(repo, digests),
        )
        self.ctx.note("signed")
        return bundle.with_signature(content, self.ctx.out / WRITTEN)

    def _once(self, path: str, fits: Callable[[bytes], bool], sign: Callable[[], bytes]) -> bytes:
        """What was signed for ``path`` in an earlier attempt, if it ``fits``, else what ``sign`` makes; it is kept."""
        kept, before = self.ctx.scratch / path.rpartition("/")[2], self.ctx.earlier.artifact
        for place in (kept, *([before / WRITTEN / path] if before else [])):
            if place.is_file() and fits(content := place.read_bytes()):
                break
        else:
            content = sign()
        write_atomic(kept, content)
        return content
