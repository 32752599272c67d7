"""The whole release is made once for all the tests here."""

from tiny_release import released

__all__ = ["released"]
