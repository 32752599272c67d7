"""rich's console, which shows nothing that others wrote as a command to the terminal. Imported where rich is needed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from hubkit.core.printable import printable_lines


class CleanConsole(Console):
    """A console whose own styling is all that reaches the terminal beside visible characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable``, each with visible text."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable_lines(segment.text, cut=False)
            yield segment if text == segment.text else segment._replace(text=text)
