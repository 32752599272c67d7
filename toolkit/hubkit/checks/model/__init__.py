"""`hubkit check`: anybody's chat model inspected without loading it. Will it stop, does it load, is its card true?

    report = check(FolderSource(Path("model")))

Start in ``check.py``; each further file is one thing that is inspected. The rules are in ``checks/rules.py``.
"""

from hubkit.checks.model.check import check
from hubkit.checks.model.report import CheckReport
from hubkit.checks.source import FolderSource, RepoSource, Source

__all__ = ["CheckReport", "FolderSource", "RepoSource", "Source", "check"]
