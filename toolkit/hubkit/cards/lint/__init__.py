"""`hubkit card lint`: what is wrong with a card, anybody's, found without running anything.

    report = lint(FolderSource(Path("model")), hub)
    findings = lint_text(text, files={"README.md", "header.png"})

Start in ``rules.py``: it names the file of each rule. ``document.py`` parses a card, ``linter.py`` applies the rules.
"""

from hubkit.cards.lint.linter import CARDS, MAX_CARD_BYTES, Report, lint, lint_file, lint_text, refuse_large

__all__ = ["CARDS", "MAX_CARD_BYTES", "Report", "lint", "lint_file", "lint_text", "refuse_large"]
