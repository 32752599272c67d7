"""What happens to a question on the page: it is asked, asked again, edited or taken back, on all sides of a tab.

Each function yields or returns the values of a tab's components, in the order of ``Asking.views``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from threading import Event
from typing import Any

import gradio as gr
from conversation import (
    Turn,
    chat_messages,
    chatbot_messages,
    measured_answer,
    prompt_html,
    sampling_note,
    waiting_note,
)
from generation import Answer, Settings, usual_limit
from loading import Loader, NotReady
from models import MOST_TOKENS

Key = tuple[str, str]
"""A session and a tab: what one person asks in one place."""


@dataclass(frozen=True)
class Question:
    """A question to all sides; ``turns`` are those before it, ``known`` what need not be generated.

    When it cannot be answered, the screen goes back to ``before``.
    """

    text: str
    system: str
    settings: Settings
    revisions: Sequence[str]
    turns: Sequence[list[Turn]]
    known: Sequence[Turn | None]
    before: Sequence[list[Turn]]


class Asking:
    """The questions of all people; ``generate`` yields the answers to prompts as they grow."""

    def __init__(
        self, release: Mapping[str, Any], loader: Loader, generate: Callable[..., Iterator[list[Answer]]]
    ) -> None:
        self.release, self.loader, self.generate = release, loader, generate
        self.usual_limit = usual_limit(release)
        self.max_seconds = float(release.get("max_seconds") or 300)
        self.stops: dict[Key, Event] = {}

    def ask(self, key: Key, text: str, system: str, *values: Any) -> Iterator[list[Any]]:
        """Ask all sides; ``values`` are limit, temperature, top-p and seed, then revisions, then turns of each side."""
        settings, revisions, pasts = self.read(values)
        if not text.strip():
            yield [gr.skip()] * (4 + 3 * len(revisions))
            return
        usual = not (system.strip() or settings.temperature or settings.limit != self.usual_limit or any(pasts))
        known = [self.measured(revision, text) if usual else None for revision in revisions]
        yield from self.answering(key, Question(text, system, settings, revisions, pasts, known, pasts))

    def retry(self, key: Key, turn: int, side: int, system: str, *values: Any) -> Iterator[list[Any]]:
        """Answer ``turn`` again on one ``side``; what came after it is forgotten on all."""
        settings, revisions, pasts = self.read(values)
        known = [None if place == side else past[turn] for place, past in enumerate(pasts)]
        turns = [past[:turn] for past in pasts]
        text = pasts[side][turn].question
        yield from self.answering(key, Question(text, system, settings, revisions, turns, known, pasts))

    def edit(self, key: Key, turn: int, text: str, system: str, *values: Any) -> Iterator[list[Any]]:
        """Ask ``text`` in place of the question of ``turn``; what came after it is forgotten."""
        settings, revisions, pasts = self.read(values)
        turns = [past[:turn] for past in pasts]
        text = text if text.strip() else pasts[0][turn].question
        none = [None] * len(revisions)
        yield from self.answering(key, Question(text, system, settings, revisions, turns, none, pasts))

    def undo(self, turn: int, *pasts: list[Turn]) -> list[Any]:
        """Take ``turn`` and all after it back; its question is in the message box again."""
        return [pasts[0][turn].question, *buttons(asking=False), *self.views([past[:turn] for past in pasts])]

    def stop(self, key: Key) -> None:
        """End the answers that grow."""
        if running := self.stops.get(key):
            running.set()

    def busy(self, key: Key) -> bool:
        """Whether a question of this person in this tab is being answered."""
        return key in self.stops

    def fitting_limit(self, most: int) -> Any:
        """What changes of the token limit for a model that takes ``most`` tokens: no more than must.

        The page may hear of it twice, and what was set meanwhile stays.
        """
        if most >= MOST_TOKENS:
            return gr.skip()
        usual = self.usual_limit
        return gr.Slider(maximum=most) if usual <= most else gr.Slider(maximum=most, value=most)

    def read(self, values: Sequence[Any]) -> tuple[Settings, Sequence[str], Sequence[list[Turn]]]:
        """The settings, and the revision and the turns of each side. A slider sends an int at its ends.

        gr.Error for a seed that is none.
        """
        limit, temperature, top_p, seed, *columns = values
        settings = Settings(int(limit), float(temperature), float(top_p), _seed(seed), self.max_seconds)
        half = len(columns) // 2
        return settings, columns[:half], columns[half:]

    def measured(self, revision: str, text: str) -> Turn | None:
        """The turn that was measured at release, if it was."""
        answer = measured_answer(self.release, revision, text)
        return Turn(revision, text, answer, "measured at release") if answer else None

    def answering(self, key: Key, question: Question) -> Iterator[list[Any]]:
        """Answer on the sides that have no ``known`` turn. When that fails, say why and go back.

        Send stays off to the end: until the page has heard that this event is over, Gradio drops a second one without
        a word (``trigger_mode="once"``). The event after it turns the buttons on.
        """
        if self.busy(key):  # a click on an example or on Retry meanwhile
            yield [gr.skip()] * (4 + 3 * len(question.revisions))
            return
        stop = self.stops[key] = Event()
        try:
            last = yield from self.growing(question, stop)
        except Exception as error:
            gr.Warning(escape(_sentence(error)), title="No answer")
            last = [question.text, *buttons(asking=True), *self.views(question.before)]
        finally:  # before Send can be pressed again
            del self.stops[key]
        yield last

    def growing(self, question: Question, stop: Event) -> Generator[list[Any], None, list[Any]]:
        """The screen while the answers grow, until all have ended or ``stop`` is set; returns the last one."""
        settings = question.settings
        turns = [
            turn or self.prepared(question, revision, past)
            for turn, revision, past in zip(question.known, question.revisions, question.turns, strict=True)
        ]
        fresh = [place for place, turn in enumerate(question.known) if turn is None]
        full = lambda: [[*past, turn] for past, turn in zip(question.turns, turns, strict=True)]  # noqa: E731
        yield ["", *buttons(asking=True), *self.views(full())]
        asked = [(turns[place].revision, list(turns[place].prompt)) for place in fresh]
        answering = self.generate(asked, settings) if asked else iter(())
        try:
            for answers in answering:
                stopped = stop.is_set()
                for place, answer in zip(fresh, answers, strict=True):
                    if stopped and not answer.ended:
                        answer = replace(answer, ended="stopped")
                    note = waiting_note(settings.seconds) if answer.ended == "timeout" else turns[place].note
                    turns[place] = replace(turns[place], answer=answer, note=note)
                if stopped:
                    break
                yield [gr.skip()] * 4 + self.views(full(), growing=True)
        finally:
            if asked:
                answering.close()  # type: ignore[attr-defined]
        return [gr.skip(), *buttons(asking=True), *self.views(full())]

    def prepared(self, question: Question, revision: str, past: list[Turn]) -> Turn:
        """A turn without an answer yet. ValueError or NotReady, with a sentence, for what cannot be asked."""
        models, limit = self.loader.wait(0), question.settings.limit
        if not 1 <= limit <= models.max_tokens:
            raise ValueError(f"Max new tokens must be between 1 and {models.max_tokens}.")
        ids = models.prompt(revision, chat_messages(question.system, past, question.text), limit)
        note = sampling_note(question.settings)
        return Turn(revision, question.text, Answer(), note, tuple(ids), tuple(models.pieces(revision, ids)))

    def views(self, pasts: Sequence[list[Turn]], *, growing: bool = False) -> list[Any]:
        """The states, chatbots and prompts of all sides; while an answer grows only the chatbots change."""
        chatbots = [chatbot_messages(turns) for turns in pasts]
        if growing:
            return [*[gr.skip()] * len(pasts), *chatbots, *[gr.skip()] * len(pasts)]
        return [*pasts, *chatbots, *(prompt_html(turns[-1] if turns else None) for turns in pasts)]


def buttons(*, asking: bool) -> list[Any]:
    """Send, Stop and Clear, as they are while a question is answered, and otherwise."""
    return [gr.Button(interactive=state) for state in (not asking, asking, not asking)]


def _seed(typed: str) -> int:
    """The seed that was typed; another one each time when none was. gr.Error for what is no seed."""
    if not typed.strip():
        return random.randrange(2**31)
    if not (typed.strip().isdecimal() and int(typed) < 2**32):
        raise gr.Error("Seed must be a whole number from 0 to 4294967295, or empty.", title="No answer")
    return int(typed)


def _sentence(error: Exception) -> str:
    """What went wrong, for a person; an error that nobody foresaw is in the log too."""
    if isinstance(error, (ValueError, NotReady)):
        return str(error)
    logging.error("A question could not be answered", exc_info=error)
    words = " ".join(str(error).split())[:200]
    return f"The model failed: {type(error).__name__}: {words}. Your message is in the box again."
