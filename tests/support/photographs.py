"""Pictures of what a browser shows, taken when it is drawn, and refused when there is nothing on them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

_INK = 0.01
"""The least share of a picture that is not of its most frequent color: a page of text has more than this."""
_DRAWN = """async () => {
  await document.fonts.ready;
  const drawn = [...document.images].filter(image => image.getAttribute('src') && image.loading !== 'lazy');
  await Promise.all(drawn.map(image => image.decode()));
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


def blank(png: bytes) -> bool:
    """Whether nearly all of a picture has one color."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    colors = image.getcolors(image.width * image.height) or []
    most = max(count for count, _ in colors)
    return most > (1 - _INK) * image.width * image.height or len(colors) < 16


def photograph(page: Any, name: str, *awaited: Any) -> None:
    """Wait until each of ``awaited`` is visible and drawn, and take a picture of the window that is not blank.

    With HUBKIT_TEST_PICTURES set to a folder, it is kept there as ``name``.png.
    """
    for locator in awaited:
        locator.wait_for(state="visible")
    page.evaluate(_DRAWN)
    png = page.screenshot()
    assert not blank(png), f"nothing is on the picture {name}"
    if folder := os.environ.get("HUBKIT_TEST_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(png)
