"""Which distributions are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(library: str) -> str | None:
    """The version of the distribution ``library``; None when it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
