"""Pictures of what a browser shows, for docs/; a blank one is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


def picture(page: Any, name: str) -> None:
    """Take a picture of ``page``; it is written as ``name``.png to the folder in ``HUBKIT_TEST_PICTURES``, if set."""
    taken = page.screenshot()
    assert not blank(taken), f"the picture {name} shows nothing"
    if folder := os.environ.get("HUBKIT_TEST_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(taken)


def blank(taken: bytes) -> bool:
    """Whether nearly all of a PNG has one shade: a page that was photographed before it was there."""
    from PIL import Image

    with Image.open(io.BytesIO(taken)) as image:
        shades = image.convert("L").histogram()
    return max(shades) > 0.99 * sum(shades) or sum(count > 0 for count in shades) < 40
