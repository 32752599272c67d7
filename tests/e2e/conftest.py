"""The whole release is made once for all the tests here; some look at it in a browser."""

from chromium import browser, page
from tiny_release import released

__all__ = ["browser", "page", "released"]
