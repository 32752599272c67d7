"""The license identifiers: the same as in the Hub's documentation, none more, none fewer, none cut in two."""

import re
from pathlib import Path

import pytest

from hubkit.core.licenses import license_identifiers, license_problem

TABLE = Path(__file__).parents[1] / "data" / "hub-licenses.md"
"""The table of the documentation page "Licenses", copied whole; its head names the source and the date."""


def documented() -> list[str]:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")][2:]
    identifiers = [re.findall(r"^\|[^|]+\| `([^`]+)` +\|", row) for row in rows]
    assert all(len(found) == 1 for found in identifiers), "a row of the table that is not read"
    return [found[0] for found in identifiers]


def test_the_identifiers_are_those_of_the_documentation() -> None:
    assert list(license_identifiers()) == documented()
    assert len(set(license_identifiers())) == len(license_identifiers()) == 83


def test_identifiers_with_hyphens_are_whole() -> None:
    for identifier in ("cc-by-2.5", "cc-by-nc-nd-3.0", "fair-noncommercial-research-license", "openmdw-1.1"):
        assert license_problem(identifier) is None
    for piece in ("cc-", "by-2.5", "cc-by-", "nc-nd-3.0", "fair-", "noncommercial-research-license"):
        assert license_problem(piece) is not None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("apache2.0", "did you mean 'apache-2.0'?"),
        ("MIT", "did you mean 'mit'?"),
        ("xyz", "such as apache-2.0"),
        (7, "such as apache-2.0"),
        ({}, "such as apache-2.0"),
        ("", "such as apache-2.0"),
    ],
)
def test_a_problem_names_the_nearest_identifier(wrong: object, sentence: str) -> None:
    assert sentence in (license_problem(wrong) or "")
