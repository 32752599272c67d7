"""A browser, and the Hub's owner beside it."""

from __future__ import annotations

import pytest
from chromium import browser, page
from huggingface_hub import HfApi

from hubkit.server.process import Running

__all__ = ["api", "browser", "page"]


@pytest.fixture
def api(hub: Running) -> HfApi:
    """The unmodified client, as the Hub's owner."""
    return HfApi(endpoint=hub.url, token=hub.token)
