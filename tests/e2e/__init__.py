"""A package, so that the release of `tiny_release.py` ends with these tests."""
