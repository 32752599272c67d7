"""Is a Space's folder ready to be deployed? What the Hub would refuse or not build, found before the app is tried here.

warnings = require_ready(folder)                # RefusedError with all that the Hub refuses
warnings += other_versions(folder)              # after a trial: under which versions it did not run
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from hubkit.core.bounded_yaml import load_bounded
from hubkit.core.errors import RefusedError
from hubkit.core.front_matter import find_front_matter
from hubkit.core.numbers import counted
from hubkit.core.printable import printable
from hubkit.core.space_metadata import space_problems

_CARD = "README.md"
_REQUIREMENTS = "requirements.txt"
_MOST_BYTES = 1024 * 1024
_SHOWN = 10


def front_matter(folder: Path) -> Mapping[str, Any]:
    """The front matter of the Space in ``folder``; empty when there is none that can be read."""
    try:
        block = find_front_matter((folder / _CARD).read_text(encoding="utf-8"), exact=True)
        value = load_bounded(block.text) if block else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def require_ready(folder: Path) -> list[str]:
    """What may go wrong with the Space in ``folder``, a sentence each. RefusedError for what the Hub does not take."""
    front = front_matter(folder)
    problems = list(space_problems(front))
    errors = [f"{_CARD}: {item.message} {item.hint}" for item in problems if item.level == "error"]
    errors += _not_requirements(folder)
    if errors:
        more = [f"and {len(errors) - _SHOWN} more"] if len(errors) > _SHOWN else []
        listed = "\n".join(f"  {printable(line)}" for line in [*errors[:_SHOWN], *more])
        raise RefusedError(
            f"The Hub does not run this Space ({counted(len(errors), 'problem')}):\n{listed}",
            hint="Fix these lines and try again.",
        )
    warnings = [f"{_CARD}: {item.message} {item.hint}" for item in problems if item.level == "warning"]
    return [printable(text) for text in (*warnings, *_other_gradio(folder, front), *_not_with_gradio(folder, front))]


def other_versions(folder: Path) -> list[str]:
    """A sentence for each version that the Space in ``folder`` names, and under which a trial here does not run it."""
    front, found = front_matter(folder), []
    here = (("sdk_version", "Gradio", _gradio()), ("python_version", "Python", platform.python_version()))
    for key, name, installed in here:
        wanted = front.get(key)
        if wanted is not None and installed and not f"{installed}.".startswith(f"{wanted}."):
            found.append(
                f"The app was tried under {name} {installed}, which is installed here, not under the {key} {wanted} "
                "that the Hub installs. It may behave differently there, or not start."
            )
    return [printable(text) for text in found]


def _gradio() -> str | None:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return None


def _lines(folder: Path) -> Iterator[tuple[int, str]]:
    """The lines of requirements.txt that name a requirement, with their numbers."""
    try:
        with (folder / _REQUIREMENTS).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return
    joined = text.replace("\\\n", " ")
    for number, line in enumerate(joined.splitlines(), 1):
        words = line.partition(" #")[0].strip()
        if words and not words.startswith(("#", "-")):
            yield number, words


def _not_requirements(folder: Path) -> Iterator[str]:
    """Lines that pip refuses. An address or a path is left to pip."""
    for number, words in _lines(folder):
        if "://" in words or words.startswith((".", "/")):
            continue
        try:
            Requirement(words.partition(" --")[0].strip())
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            yield f"{_REQUIREMENTS}:{number}: pip refuses {words[:80]!r}: {reason}."


def _other_gradio(folder: Path, front: Mapping[str, Any]) -> Iterator[str]:
    """Whether requirements.txt asks for another Gradio than ``sdk_version``, which the Hub installs."""
    try:
        sdk = Version(str(front.get("sdk_version")))
    except InvalidVersion:
        return
    for number, words in _lines(folder):
        try:
            requirement = Requirement(words.partition(" --")[0].strip())
        except InvalidRequirement:
            continue
        if requirement.name.lower() == "gradio" and not requirement.specifier.contains(sdk, prereleases=True):
            yield (
                f"{_REQUIREMENTS}:{number}: it asks for {words}, but sdk_version is {sdk}, which the Hub installs: "
                "make them agree, or remove the line."
            )


def _not_with_gradio(folder: Path, front: Mapping[str, Any]) -> Iterator[str]:
    """Pins in requirements.txt with which the Gradio of ``sdk_version`` cannot be installed, if that one is here."""
    if str(front.get("sdk_version")) != _gradio():
        return
    listed = [item for item in map(Requirement, requires("gradio") or ()) if _always(item)]
    needs = {item.name.lower().replace("_", "-"): item for item in listed}
    for number, words in _lines(folder):
        try:
            pinned = Requirement(words.partition(" --")[0].strip())
        except InvalidRequirement:
            continue
        needed = needs.get(pinned.name.lower().replace("_", "-"))
        exact = [item.version for item in pinned.specifier if item.operator == "==" and "*" not in item.version]
        if needed and exact and not needed.specifier.contains(exact[0], prereleases=True):
            yield (
                f"{_REQUIREMENTS}:{number}: it pins {words}, but Gradio {_gradio()}, which the Hub installs, needs "
                f"{needed.name}{needed.specifier}: the Space would not be built. Change the pin, or remove the line."
            )


def _always(requirement: Requirement) -> bool:
    """Whether it is installed here without any extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
