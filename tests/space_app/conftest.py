"""A browser for the app's screen."""

from chromium import browser

__all__ = ["browser"]
