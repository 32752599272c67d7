"""Chat with the revisions of one model, alone or side by side, and see how each answer ended.

``release.json`` next to this file names the base, the revisions and their commits. For styles and for tests in a
browser: the transcripts are ``#chat-answers``, ``#compare-left`` and ``#compare-right``, each with its selector
(``#chat-answers-revision``); a turn is a ``.turn`` with ``.asked``, ``.answer`` and, once it has ended, ``.mark``. The
rest is ``#chat-prompt``, ``#chat-send``, ``#chat-stop``, ``#chat-clear``, the same with ``compare``, and ``#settings``
with ``#system``, ``#limit`` and ``#temperature``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

try:  # before torch: on ZeroGPU this module replaces CUDA
    from spaces import GPU as on_gpu
except ImportError:
    on_gpu = lambda function: function  # noqa: E731

import gradio as gr
from huggingface_hub.constants import ENDPOINT
from models import Answer, Models
from number_format import count, counted, share

HERE = Path(__file__).parent
WORDS = {"eos": "stopped by end-of-turn token", "limit": "hit the token limit", "stopped": "stopped by you"}
SIDES = {"chat": ["chat-answers"], "compare": ["compare-left", "compare-right"]}
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
).set(
    body_text_color_subdued="*neutral_600",  # the theme's own greys and teals are too pale to be read easily
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_600",
    color_accent="*primary_700",
)
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Turn:
    """A message, the revision it was sent to, and its answer."""

    revision: str
    asked: str
    answer: Answer


def mark(answer: Answer) -> str:
    """How an answer ended and how long it is: ``stopped by end-of-turn token · 7 tokens``."""
    words = WORDS.get(answer.ended, f"ended by {answer.ended}")
    return f"{words} · {counted(answer.tokens, 'token')}"


def transcript(turns: Sequence[Turn]) -> str:
    """The turns as HTML. Everything that people and models wrote is escaped."""
    shown = []
    for turn in turns:
        ended = turn.answer.ended
        shown.append(
            f'<div class="turn"><p class="asked"><b>You</b>{escape(turn.asked)}</p>'
            f'<p class="answer"><b>{escape(turn.revision)}</b>{escape(turn.answer.text)}</p>'
            f'<p role="status" class="{"mark" if ended else "growing"}" data-ended="{escape(ended)}">'
            f"{escape(mark(turn.answer)) if ended else 'writing …'}</p></div>"
        )
    return "".join(shown) or '<p class="empty">No messages yet.</p>'


def messages(system: str, turns: Sequence[Turn], text: str) -> list[dict[str, str]]:
    """The conversation as chat templates expect it: text only, no marks."""
    conversation = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns:
        conversation += [{"role": "user", "content": turn.asked}, {"role": "assistant", "content": turn.answer.text}]
    return [*conversation, {"role": "user", "content": text}]


def heading(release: Mapping[str, Any]) -> str:
    """The top of the page: the title, the repo, and a table of its revisions with their stop rates, if measured."""
    measured = any(item.get("stop_rate") for item in release["revisions"])
    column = '<th scope="col">Stop rate</th>' if measured else ""
    home = f"{ENDPOINT}/{release['repo']}"
    rows = "".join(
        f'<tr><th scope="row">{escape(item["name"])} {_link(_tree(release, item), item["commit"][:8])}</th>'
        f"<td>{escape(item['title'])}</td>"
        f"{f'<td>{stop_rate(item)}</td>' if measured else ''}</tr>"
        for item in release["revisions"]
    )
    return (
        f"<h1>{escape(release['title'])}</h1>"
        f"<p>Chat with the revisions of {_link(home, release['repo'])}. Each answer shows whether the model emitted "
        f"its end-of-turn token (<code>{escape(release['end_of_turn']['token'])}</code>) or hit the token limit.</p>"
        f'<table><thead><tr><th scope="col">Revision</th><th scope="col">Description</th>'
        f"{column}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _tree(release: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """The files of a revision: of the release's repo, or of a ``repo`` of its own."""
    return f"{ENDPOINT}/{item.get('repo', release['repo'])}/tree/{item['commit']}"


def stop_rate(revision: Mapping[str, Any]) -> str:
    """The measured stop rate of a revision: ``98.4 % (252 of 256)``."""
    if not (measured := revision.get("stop_rate")):
        return "not measured"
    stopped, prompts = measured["stopped"], measured["prompts"]
    return f"{share(stopped / prompts)} ({count(stopped)} of {count(prompts)})"


class Screen:
    """The app: ``demo`` is what Gradio launches."""

    def __init__(self, release: Mapping[str, Any], models: Models) -> None:
        self.release, self.models = release, models
        self.names = [item["name"] for item in release["revisions"]]
        self.generate = on_gpu(models.answers)
        self.stops: dict[tuple[str, str], Event] = {}
        usual = min(release["max_new_tokens"], models.max_tokens)
        system = gr.Textbox("", label="System prompt", lines=2, elem_id="system", render=False)
        limit = gr.Slider(1, models.max_tokens, usual, step=1, label="Token limit", elem_id="limit", render=False)
        temperature = gr.Slider(
            0,
            2,
            0,
            step=0.1,
            label="Temperature",
            info="0 = greedy, as in the measurements",
            elem_id="temperature",
            render=False,
        )
        self.settings = [system, limit, temperature]
        with gr.Blocks(title=release["title"], analytics_enabled=False) as self.demo:
            gr.HTML(heading(release), elem_id="heading")
            with gr.Tabs():
                for name, sides in SIDES.items():
                    if len(sides) <= len(self.names):
                        with gr.Tab(name.capitalize()):
                            self.conversation(name, sides)
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                system.render()
                with gr.Row():
                    limit.render()
                    temperature.render()
            gr.api(self.answer, api_name="answer")

    def conversation(self, name: str, sides: Sequence[str]) -> None:
        """Lay out one conversation, with a revision and a transcript for each side, and connect it."""
        revisions, views, pasts = [], [], []
        with gr.Row():
            for place, side in enumerate(sides):
                with gr.Column(min_width=280):
                    revisions.append(
                        gr.Dropdown(
                            self.names,
                            value=self.names[place],
                            label="Revision",
                            filterable=False,
                            elem_id=f"{side}-revision",
                        )
                    )
                    views.append(gr.HTML(transcript([]), autoscroll=True, elem_id=side, elem_classes="transcript"))
                    pasts.append(gr.State([]))
        with gr.Row(elem_classes="ask"):
            prompt = gr.Textbox(
                label="Message",
                placeholder="Type a message …",
                max_lines=8,
                min_width=280,
                scale=9,
                container=False,
                elem_id=f"{name}-prompt",
            )
            send = gr.Button("Send", variant="primary", min_width=88, elem_id=f"{name}-send")
            stop = gr.Button("Stop", interactive=False, min_width=88, elem_id=f"{name}-stop")
            clear = gr.Button("Clear", min_width=88, elem_id=f"{name}-clear")
        gr.Examples([[text] for text in self.release["prompts"]], prompt, api_visibility="private")
        buttons = [send, stop, clear]

        def talk(request: gr.Request, text: str, *values: Any) -> Iterator[list[Any]]:
            yield from self.talk((request.session_hash, name), text, *values)

        def halt(request: gr.Request) -> None:
            if running := self.stops.get((request.session_hash, name)):
                running.set()

        inputs = [prompt, *self.settings, *revisions, *pasts]
        talking = gr.on([send.click, prompt.submit], talk, inputs, [prompt, *buttons, *pasts, *views], **HIDDEN)
        talking.then(lambda: _enabled(True, False, True), None, buttons, queue=False, **HIDDEN)
        stop.click(halt, queue=False, **HIDDEN)
        clear.click(
            lambda: [[]] * len(sides) + [transcript([])] * len(sides), None, pasts + views, queue=False, **HIDDEN
        )

    def talk(self, key: tuple[str, str], text: str, system: str, limit: int, temperature: float, *columns: Any) -> Any:
        """Answer on all sides; ``columns`` are their revisions, then their turns. Yields the updates of the screen."""
        if not text.strip():
            yield gr.skip()
            return
        half = len(columns) // 2
        revisions, pasts = columns[:half], columns[half:]
        asked = [
            (revision, self.prompt(revision, messages(system, turns, text), limit))
            for revision, turns in zip(revisions, pasts, strict=True)
        ]
        turns = [Turn(revision, text, Answer()) for revision in revisions]
        views = lambda: [transcript([*past, turn]) for past, turn in zip(pasts, turns, strict=True)]  # noqa: E731
        same = [gr.skip()] * (4 + half)
        stop = self.stops[key] = Event()
        answering = self.generate(asked, limit, temperature)
        try:
            yield ["", *_enabled(False, True, False), *same[4:], *views()]
            for answers in answering:
                if stopped := stop.is_set():
                    answers = [answer if answer.ended else replace(answer, ended="stopped") for answer in answers]
                turns = [replace(turn, answer=answer) for turn, answer in zip(turns, answers, strict=True)]
                yield [*same, *views()]
                if stopped:
                    break
        except Exception:
            yield [text, *same[1:], *(transcript(past) for past in pasts)]  # the state before the message
            raise
        finally:
            answering.close()
            del self.stops[key]
        yield [*same[:4], *([*past, turn] for past, turn in zip(pasts, turns, strict=True)), *views()]

    def prompt(self, revision: str, conversation: list[dict[str, str]], limit: int) -> list[int]:
        """``Models.prompt``, with its errors in a form that Gradio shows."""
        if revision not in self.names:
            raise _refused(f"Unknown revision. Available: {', '.join(self.names)}.")
        if not 1 <= limit <= self.models.max_tokens:
            raise _refused(f"Token limit must be between 1 and {self.models.max_tokens}.")
        try:
            return self.models.prompt(revision, conversation, limit)
        except ValueError as error:
            raise _refused(str(error)) from None

    def answer(self, prompt: str, revision: str, system: str = "", limit: int = 64) -> dict[str, Any]:
        """Greedy answer of one revision: {"text", "ended": "eos" | "limit" | another token, "tokens"}."""
        if not prompt.strip():
            raise _refused("The prompt is empty.")
        asked = [(revision, self.prompt(revision, messages(system, [], prompt), limit))]
        *_, [answer] = self.generate(asked, limit)
        return {"text": answer.text, "ended": answer.ended, "tokens": answer.tokens}


def _link(to: str, words: str) -> str:
    return f'<a href="{escape(to)}" target="_blank" rel="noopener">{escape(words)}</a>'


def _refused(sentence: str) -> gr.Error:
    """An error that the caller can fix, shown without a traceback in the log."""
    return gr.Error(sentence, print_exception=False)


def _enabled(*states: bool) -> list[Any]:
    return [gr.Button(interactive=state) for state in states]


if __name__ == "__main__":
    release = json.loads((HERE / "release.json").read_text(encoding="utf-8"))
    screen = Screen(release, Models(release))
    screen.demo.queue(max_size=32, default_concurrency_limit=8)
    screen.demo.launch(
        theme=THEME,
        css_paths=HERE / "style.css",
        footer_links=["api"],
        run_history=False,
        show_error=True,
        ssr_mode=False,
    )
