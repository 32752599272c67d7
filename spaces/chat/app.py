"""Chat with the revisions of one model, alone or side by side, and see how each answer ended.

``release.json`` next to this file says what to load. All that it must have::

    {"title": "My model", "repo": "me/my-model", "revisions": [{"name": "main", "form": "weights"}]}

``repo`` may be a folder. More of it, if known:

- of a revision: ``commit``, ``title``, ``repo`` (one of its own), ``stop_rate: {"stopped", "prompts"}``; without
  ``form`` it is the LoRA adapter in the folder ``adapter/`` of its repo, on ``base: {"repo", "commit"}``.
- ``dtype`` ("auto"), ``end_of_turn: {"id", "token"}`` (the tokenizer's and the model's EOS tokens), ``max_new_tokens``
  (256), ``max_seconds`` for an answer (300), ``prompts`` as examples.
- what was measured: ``base_stop_rate`` (as ``stop_rate``), ``answers: [{"prompt", "revision", "answer", "ended",
  "tokens"}]``, ``benchmarks: {"columns": [...], "rows": [[label, text, ...], ...]}``.

This file lays the page out. ``asking.py`` is what happens to a question, ``endpoints.py`` what programs can ask,
``loading.py`` loads ``models.py`` in the background, ``generation.py`` streams answers, ``conversation.py`` and
``page.py`` write what is shown.

For styles and for tests in a browser: the chatbots are ``#chat-answers``, ``#compare-left`` and ``#compare-right``,
each with its selector (``#chat-answers-revision``); below an answer stands ``.growing``, and once it has ended
``.mark``. The rest is ``#chat-prompt``, ``#chat-send``, ``#chat-stop``, ``#chat-clear``, the same with ``compare``, and
``#settings`` with ``#system``, ``#limit``, ``#temperature``, ``#top-p`` and ``#seed``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:  # before torch: on ZeroGPU this module replaces CUDA
    from spaces import GPU as on_gpu
except ImportError:
    on_gpu = lambda duration: lambda function: function  # noqa: E731

import gradio as gr
import page
from asking import Asking, buttons
from conversation import MESSAGES_PER_TURN, plain, prompt_html
from endpoints import Endpoints
from generation import Answer, Settings
from loading import Loader
from models import MOST_TOKENS
from starlette.middleware import Middleware

HERE = Path(__file__).parent
SIDES = {"compare": ["compare-left", "compare-right"], "chat": ["chat-answers"]}
LABELS = {"compare-left": "Left revision", "compare-right": "Right revision", "chat-answers": "Revision"}
QUEUE = 32
"""How many questions may wait; the next one is refused with a message."""
MOST_EXAMPLES = 6
AT_ONCE = 8
"""How many questions are answered at the same time."""
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
NAME_THE_LOGS = f"""() => {{
    for (const [id, name] of Object.entries({json.dumps(LABELS)}))
        document.querySelector(`#${{id}} [role=log]`)?.setAttribute("aria-label", `Answers: ${{name}}`);
}}"""
"""Gradio gives all chatbots the same name, so that a screen reader cannot tell left from right."""
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}


def gpu_seconds(asked: Sequence[Any], settings: Settings) -> int:
    """How long ZeroGPU lends a GPU for these answers: a short one is given a place sooner."""
    return min(120, 15 + settings.limit * len(asked) // 10)


@dataclass(frozen=True)
class Tab:
    """The components of one conversation; the lists have an item for each side."""

    prompt: gr.Textbox
    buttons: list[gr.Button]
    examples: list[gr.Button]
    revisions: list[gr.Dropdown]
    pasts: list[gr.State]
    chatbots: list[gr.Chatbot]
    prompts: list[gr.HTML]

    def outputs(self) -> list[Any]:
        """What ``Asking`` yields values for."""
        return [self.prompt, *self.buttons, *self.pasts, *self.chatbots, *self.prompts]


class Screen:
    """The app: ``demo`` is what Gradio launches."""

    def __init__(self, release: Mapping[str, Any], loader: Loader) -> None:
        self.release, self.loader = release, loader
        self.names = [item["name"] for item in release["revisions"]]
        generate = on_gpu(duration=gpu_seconds)(self._generate)
        self.asking = Asking(release, loader, generate)
        self.sends: list[gr.Button] = []
        self.settings = self.setting_components()
        with gr.Blocks(title=release["title"], analytics_enabled=False) as self.demo:
            gr.HTML(page.heading(release), elem_id="heading", padding=False)
            banner = gr.HTML(page.progress(loader.progress()), elem_id="banner", padding=False)
            self.lay_out_tabs()
            with gr.Accordion("Settings", open=False, elem_id="settings"):
                self.settings[0].render()
                for pair in (self.settings[1:3], self.settings[3:]):
                    with gr.Row():
                        for component in pair:
                            component.render()
            self.follow_the_loading(banner)
            Endpoints(release, loader, generate, self.asking.max_seconds).add()

    def setting_components(self) -> list[Any]:
        """System prompt, token limit, temperature, top-p and seed; they apply to all tabs."""
        return [
            gr.Textbox("", label="System prompt", lines=2, elem_id="system", render=False),
            gr.Slider(
                1, MOST_TOKENS, min(self.asking.usual_limit, MOST_TOKENS), step=1, label="Max new tokens",
                elem_id="limit", render=False,
            ),
            gr.Slider(
                0, 2, 0, step=0.1, label="Temperature", info="0 is greedy, as in the measurements",
                elem_id="temperature", render=False,
            ),
            gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="1 keeps all tokens", elem_id="top-p", render=False),
            gr.Textbox(  # a gr.Number without a value turns into 0 as soon as it is seen
                "", label="Seed", info="Empty: another one each time", placeholder="random", elem_id="seed",
                max_length=10, html_attributes=gr.InputHTMLAttributes(autocomplete="off"), render=False,
            ),
        ]  # fmt: skip

    def lay_out_tabs(self) -> None:
        """Compare first, when there is something to compare."""
        with gr.Tabs():
            for name, sides in SIDES.items():
                if len(sides) <= len(self.names):
                    with gr.Tab(name.capitalize()):
                        self.conversation(name, sides)
            if measured := page.measurements(self.release):
                with gr.Tab("Measured"):
                    gr.HTML(measured, elem_id="measured", padding=False)

    def follow_the_loading(self, banner: gr.HTML) -> None:
        """Keep the banner up to date until the models are there; then the page can be used."""
        timer = gr.Timer(1.0)

        def look() -> list[Any]:
            now, models = self.loader.progress(), self.loader.models
            limit = self.asking.fitting_limit(models.max_tokens) if models else gr.skip()
            ready = gr.Button(interactive=models is not None)
            busy = now.state in {"loading", "waiting"}
            return [gr.Timer(active=busy), page.progress(now), limit, *[ready] * len(self.sends)]

        outputs = [timer, banner, self.settings[1], *self.sends]
        self.demo.load(None, js=NAME_THE_LOGS, **HIDDEN)
        gr.on([self.demo.load, timer.tick], look, None, outputs, queue=False, show_progress_on=[], **HIDDEN)

    def conversation(self, name: str, sides: Sequence[str]) -> None:
        """Lay out one conversation, with a revision and a chatbot for each side, and connect it."""
        revisions, chatbots, pasts = [], [], []
        with gr.Row(elem_classes="sides", equal_height=True):
            for place, side in enumerate(sides):
                with gr.Column(min_width=280):
                    revisions.append(self.selector(side, self.names[place]))
                    chatbots.append(_chatbot(side))
                    pasts.append(gr.State([], time_to_live=3600))
        examples = []
        with gr.Row(elem_classes="examples"):
            for text in list(self.release.get("prompts") or ())[:MOST_EXAMPLES]:
                examples.append(gr.Button(text, size="sm", elem_classes="example", interactive=False))
        prompt, below = _ask_row(name)
        self.sends += [below[0], *examples]
        with gr.Accordion("The exact prompt that the model reads", open=False, elem_id=f"{name}-prompts"), gr.Row():
            prompts = [gr.HTML(prompt_html(None), elem_classes="prompt", padding=False) for _ in sides]
        self.connect(name, Tab(prompt, below, examples, revisions, pasts, chatbots, prompts))

    def selector(self, side: str, name: str) -> gr.Dropdown:
        """The choice of a revision, and a line about it."""
        revision = gr.Dropdown(
            self.names, value=name, label=LABELS[side], filterable=False, container=False, elem_id=f"{side}-revision",
            visible=len(self.names) > 1,
        )  # fmt: skip
        line = gr.HTML(page.about(self.release, name), elem_classes="about", padding=False)
        revision.change(lambda chosen: page.about(self.release, chosen), revision, line, queue=False, **HIDDEN)
        return revision

    def connect(self, name: str, tab: Tab) -> None:
        """Connect one tab: all that starts an answer has the same inputs and outputs."""
        inputs, outputs = [*self.settings, *tab.revisions, *tab.pasts], tab.outputs()
        send, stop, clear = tab.buttons

        def listen(trigger: Any, function: Callable[..., Any], more: list[Any]) -> None:
            # One at a time in each tab; a click while an answer grows does nothing.
            answering = trigger(function, [*more, *inputs], outputs, trigger_mode="once", **HIDDEN)
            answering.then(after, None, tab.buttons, queue=False, **HIDDEN)

        def after(request: gr.Request) -> list[Any]:
            return buttons(asking=self.asking.busy((request.session_hash or "", name)))

        def ask(request: gr.Request, text: str, *values: Any) -> Iterator[list[Any]]:
            yield from self.asking.ask((request.session_hash or "", name), text, *values)

        def undo(event: gr.UndoData, *pasts: Any) -> list[Any]:
            return self.asking.undo(_turn(event), *pasts)

        listen(send.click, ask, [tab.prompt])
        listen(tab.prompt.submit, ask, [tab.prompt])
        for button in tab.examples:
            listen(button.click, ask, [button])
        for side, chatbot in enumerate(tab.chatbots):
            self.connect_chatbot(name, side, chatbot, listen)
            chatbot.undo(undo, tab.pasts, outputs, queue=False, **HIDDEN)

        def halt(request: gr.Request) -> None:
            self.asking.stop((request.session_hash or "", name))

        stop.click(halt, queue=False, **HIDDEN)
        clear.click(lambda: self.asking.views([[] for _ in tab.chatbots]), None, outputs[4:], queue=False, **HIDDEN)

    def connect_chatbot(self, name: str, side: int, chatbot: gr.Chatbot, listen: Callable[..., None]) -> None:
        """Connect the retry and edit buttons of one side."""

        def retry(request: gr.Request, event: gr.RetryData, *values: Any) -> Iterator[list[Any]]:
            yield from self.asking.retry((request.session_hash or "", name), _turn(event), side, *values)

        def edit(request: gr.Request, event: gr.EditData, *values: Any) -> Iterator[list[Any]]:
            text = plain(str(event.value))
            yield from self.asking.edit((request.session_hash or "", name), _turn(event), text, *values)

        listen(chatbot.retry, retry, [])
        listen(chatbot.edit, edit, [])

    def _generate(self, asked: Sequence[tuple[str, list[int]]], settings: Settings) -> Iterator[list[Answer]]:
        yield from self.loader.wait(0).answers(asked, settings)


def _chatbot(side: str) -> gr.Chatbot:
    return gr.Chatbot(
        label="Answers", show_label=False, elem_id=side, elem_classes="answers", height="46vh", min_height=220,
        layout="panel", buttons=["copy"], editable="user", group_consecutive_messages=False, feedback_options=None,
        latex_delimiters=[], placeholder="No messages yet: type one below, or choose an example.",
    )  # fmt: skip


def _ask_row(name: str) -> tuple[gr.Textbox, list[gr.Button]]:
    """The message box and its buttons, at the bottom of the window: Send, Stop, Clear."""
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(
            label="Message", placeholder="Type a message …", max_lines=6, min_width=200, scale=9, container=False,
            elem_id=f"{name}-prompt",
        )  # fmt: skip
        send = gr.Button("Send", variant="primary", min_width=72, interactive=False, elem_id=f"{name}-send")
        stop = gr.Button("Stop", interactive=False, min_width=72, elem_id=f"{name}-stop")
        clear = gr.Button("Clear", min_width=72, elem_id=f"{name}-clear")
    return prompt, [send, stop, clear]


def _turn(event: Any) -> int:
    """The turn of an event of a chatbot."""
    index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
    return int(index) // MESSAGES_PER_TURN


class OwnPicturesOnly:
    """Middleware: the browser loads pictures and media of this app alone, whatever a model writes."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Add the header to every response."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = b"img-src 'self' data: blob:; media-src 'self' data: blob:; object-src 'none'"
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", policy)]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def main() -> None:
    """Serve the page, and load the models meanwhile; on ZeroGPU before, so that the launch moves them to the GPU."""
    release = json.loads((HERE / "release.json").read_text(encoding="utf-8"))
    loader = Loader(release)
    screen = Screen(release, loader)
    if os.environ.get("SPACES_ZERO_GPU"):
        loader.run()
    screen.demo.queue(max_size=QUEUE, default_concurrency_limit=AT_ONCE)
    screen.demo.launch(
        theme=THEME,
        css_paths=HERE / "style.css",
        footer_links=["api"],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(OwnPicturesOnly)]},
        prevent_thread_lock=True,
    )
    loader.start()  # not before: a busy machine would not answer Gradio's check of the page in time
    screen.demo.block_thread()


if __name__ == "__main__":
    main()
