"""What must not be published, found in files: hostile names, links, pickles, secrets, damaged weights.

    findings = screen({"config.json": Path("out/config.json"), "model.safetensors": Path("out/model.safetensors")})

Start in ``tree.py`` (all files of a model together), then ``file.py`` (one file). The rules are in ``checks/rules.py``.
"""

from hubkit.checks.screening.file import numbers_of, screen_file
from hubkit.checks.screening.filenames import PICKLE_SUFFIXES
from hubkit.checks.screening.remote import screen_source
from hubkit.checks.screening.tree import screen, screen_names

__all__ = ["PICKLE_SUFFIXES", "numbers_of", "screen", "screen_file", "screen_names", "screen_source"]
