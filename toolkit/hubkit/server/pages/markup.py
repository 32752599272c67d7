"""Turn cards and code into safe HTML, in a child process with limits.

A card is untrusted text: some texts keep a parser busy for minutes, and a running regular expression blocks all
other threads. So this runs in a child with a limit on its CPU time. It imports nothing of hubkit, because
:func:`hubkit.core.processes.parent.run_job` runs this file by its path. The complete HTML is cleaned last:
https://nh3.readthedocs.io.
"""

from __future__ import annotations

import html
import posixpath
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.gfm import gfm_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

ID_PREFIX = "card-"
"""Before every id of a card, so that a card cannot take the place of a part of the page."""
CLASS_PREFIX = "hl-"
MENTION = re.compile(r"(?<![\w@/.-])@([A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?)")
"""An account, named in a comment."""
_COMMENT_SECONDS, _COMMENTS_SECONDS = 0.5, 2.2
"""Seconds of the processor for one comment, and after which no other is begun."""
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PICTURE = re.compile(r'<img(?: [a-z]+="[^"]*")*>')
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_TAGS = """
a abbr b blockquote br caption center cite code col colgroup dd del details dfn div dl dt em figcaption figure
h1 h2 h3 h4 h5 h6 hr i img input ins kbd li mark ol p picture pre q rp rt ruby s samp section small source span
strike strong sub summary sup table tbody td tfoot th thead tr tt u ul var wbr
"""
_DROPPED = {"script", "style", "svg", "math", "iframe", "object", "template", "title", "noscript", "textarea", "select"}
_SIZED = {"width", "height"}
_ATTRIBUTES = {
    "*": {"align", "dir", "id", "lang", "title"},
    "a": {"href"},
    "details": {"open"},
    "img": {"alt", "src", *_SIZED},
    "input": {"checked"},
    "li": {"value"},
    "ol": {"start", "reversed"},
    "source": {"media", "srcset"},
    "table": {"width"},
    "td": {"colspan", "rowspan", "valign", "width"},
    "th": {"colspan", "rowspan", "scope", "valign", "width"},
}
_VALUES = {
    "align": r"(?i:left|right|center|middle|top|bottom|justify)",
    "colspan": r"[0-9]{1,3}",
    "dir": r"(?i:ltr|rtl|auto)",
    "height": r"[0-9]{1,4}(px|%)?",
    "id": r"\S{1,200}",
    "lang": r"[A-Za-z0-9-]{1,35}",
    "rowspan": r"[0-9]{1,3}",
    "start": r"-?[0-9]{1,9}",
    "value": r"-?[0-9]{1,9}",
    "valign": r"(?i:top|middle|bottom|baseline)",
    "width": r"[0-9]{1,4}(px|%)?",
}
_ALERTS = {f"markdown-alert-{kind}" for kind in ("note", "tip", "important", "warning", "caution")}
_CLASSES = {
    "a": {"footnote-backref"},
    "div": {"markdown-alert", *_ALERTS},
    "li": {"footnote-item", "task-list-item"},
    "ol": {"footnotes-list"},
    "p": {"markdown-alert-title"},
    "section": {"footnotes"},
    "span": {CLASS_PREFIX + short for short in STANDARD_TYPES.values() if short},
    "sup": {"footnote-ref"},
    "ul": {"contains-task-list"},
}


@dataclass(frozen=True)
class Place:
    """The base of a card's relative links: the address of its repo (``/datasets/ns/name``) and its revision."""

    web: str
    revision: str
    prefix: str = ID_PREFIX
    """Before every id of this text."""
    remote_pictures: bool = True
    """Whether pictures of other hosts are shown: whoever keeps one learns who reads the page, and when."""

    def link(self, value: str, *, image: bool = False) -> str | None:
        """An address of the card as the page may have it, or None.

        ``https:``, ``http:`` and ``mailto:`` stay (of images ``https:`` only: a plain address may be a program of
        this machine), ``#part`` gets the prefix of ids, and a relative one leads to the file of that revision.
        """
        value = _CONTROL.sub(lambda found: "%20" if found[0] == " " else "", value.strip()).replace("\\", "/")
        if value.startswith("//"):
            value = f"https:{value}"
        if scheme := _SCHEME.match(value):
            if image and not self.remote_pictures:
                return None
            schemes = {"https"} if image else {"https", "http", "mailto"}
            return value if scheme[1].lower() in schemes else None
        if value.startswith("#"):
            return f"#{self.prefix}{value[1:]}" if value != "#" else value
        if value.startswith("/"):
            return value if not image or "/resolve/" in value else None
        return self._file(value, "resolve" if image else "blob")

    def _file(self, value: str, way: str) -> str | None:
        try:
            parts = urlsplit(value)
        except ValueError:
            return None
        path = posixpath.normpath(f"/{unquote(parts.path)}").strip("/")
        if not path:
            return None
        if parts.path.endswith("/"):
            way = "tree"
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        return f"{self.web}/{way}/{quote(self.revision, safe='')}/{quote(path)}{fragment}"


def _sources(place: Place, value: str) -> str | None:
    """A ``srcset`` with each of its addresses as the page may have it."""
    sources = []
    for candidate in value.split(","):
        address, _, size = candidate.strip().partition(" ")
        link = place.link(address, image=True)
        if link is None or not re.fullmatch(r"[0-9.]{0,6}[wx]?", size.strip()):
            return None
        sources.append(f"{link} {size.strip()}".strip())
    return ", ".join(sources)


def clean(text: str, place: Place) -> str:
    """HTML of any kind as a card may have it: known tags and attributes, safe addresses, prefixed ids."""

    def keep(tag: str, name: str, value: str) -> str | None:
        if name == "href":
            return place.link(value)
        if name == "src":
            return place.link(value, image=True)
        if name == "srcset":
            return _sources(place, value)
        rule = _VALUES.get(name)
        return value if rule is None or re.fullmatch(rule, value) else None

    cleaned = nh3.clean(
        text, tags=set(_TAGS.split()), clean_content_tags=_DROPPED, attributes=_ATTRIBUTES, attribute_filter=keep,
        allowed_classes=_CLASSES, url_schemes={"http", "https", "mailto"}, id_prefix=place.prefix,
        link_rel="nofollow noopener noreferrer ugc",
        set_tag_attribute_values={
            "input": {"type": "checkbox", "disabled": "", "aria-label": "task"},
            "img": {"loading": "lazy", "decoding": "async"},
            "pre": {"tabindex": "0"}, "table": {"tabindex": "0"},  # they scroll, and not all people have a pointer
        },
    )  # fmt: skip
    return _PICTURE.sub(lambda found: found[0] if ' alt="' in found[0] else f'<img alt=""{found[0][4:]}', cleaned)


@lru_cache(maxsize=1)
def _formatter() -> HtmlFormatter[str]:
    return HtmlFormatter(nowrap=True, classprefix=CLASS_PREFIX)


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False) if language else None
    except ClassNotFound:
        return None


def _fence(code: str, language: str, _: str) -> str:
    """The content of a fenced block, highlighted when its language is known."""
    lexer = _lexer(language)
    return highlight(code, lexer, _formatter()) if lexer else html.escape(code)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True, "maxNesting": 100, "highlight": _fence})
    return parser.use(gfm_plugin).use(anchors_plugin, max_level=6)


def card_html(text: str, place: Place, accounts: dict[str, str] | None = None) -> str:
    """Markdown as GitHub and the Hub read it (tables, task lists, footnotes, alerts, HTML), as safe HTML.

    With ``accounts``, names by their lower case, it is a comment: ``@name`` is a link, and so is a picture elsewhere.
    """
    environment: dict[str, Any] = {}
    tokens = _parser().parse(text, environment)
    for token in tokens:
        # The alignment of a column comes as a style, which no card may have.
        if token.type in {"td_open", "th_open"} and (style := token.attrs.pop("style", None)):
            token.attrs["align"] = str(style).removeprefix("text-align:")
        if accounts is not None and token.type == "inline" and token.children:
            token.children = list(_comment_tokens(token.children, place, accounts))
    return clean(_parser().renderer.render(tokens, _parser().options, environment), place)


def _comment_tokens(tokens: list[Token], place: Place, accounts: dict[str, str]) -> Iterator[Token]:
    """The parts of a line of a comment, with mentions and remote pictures as links."""
    inside = 0
    for token in tokens:
        inside += {"link_open": 1, "link_close": -1}.get(token.type, 0)
        if token.type == "image" and place.link(str(token.attrs.get("src", "")), image=True) is None:
            address = str(token.attrs.get("src", ""))
            yield from [_text(token.content or address)] if inside else _link(address, token.content or address)
        elif token.type == "text" and not inside:
            yield from _mentions(token.content, accounts)
        else:
            yield token


def _mentions(text: str, accounts: dict[str, str]) -> Iterator[Token]:
    end = 0
    for match in MENTION.finditer(text):
        if name := accounts.get(match[1].lower()):
            yield _text(text[end : match.start()])
            yield from _link(f"/{name}", match[0])
            end = match.end()
    yield _text(text[end:])


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _link(address: str, text: str) -> list[Token]:
    return [Token("link_open", "a", 1, attrs={"href": address}), _text(text), Token("link_close", "a", -1)]


class _TooSlow(Exception):
    """A comment takes longer than its share."""


def comments_html(texts: list[str], place: Place, accounts: dict[str, str]) -> list[str | None]:
    """Each comment as safe HTML, its ids with a prefix of its own; None for one that takes too long.

    For the main thread of a child alone: it interrupts itself.
    """

    def stop(*_: object) -> None:
        raise _TooSlow

    signal.signal(signal.SIGVTALRM, stop)
    rendered: list[str | None] = []
    for number, text in enumerate(texts):
        if time.process_time() > _COMMENTS_SECONDS:
            rendered.append(None)
            continue
        signal.setitimer(signal.ITIMER_VIRTUAL, _COMMENT_SECONDS)
        try:
            rendered.append(card_html(text, replace(place, prefix=f"{place.prefix}{number}-"), accounts))
        except (_TooSlow, RecursionError):
            rendered.append(None)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return rendered


def code_lines(text: str, name: str) -> list[str]:
    """The lines of a file called ``name`` as HTML, highlighted when its language is known by the name."""
    lexer: Lexer
    try:
        lexer = get_lexer_for_filename(name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    highlighted: str = highlight(text, lexer, _formatter())
    return highlighted.removesuffix("\n").split("\n")


def answer(job: dict[str, Any]) -> str | list[str] | list[str | None] | None:
    """The HTML of a card, of comments, or of the lines of a file; None for more than ``most`` characters."""
    result: str | list[str]
    if "comments" in job:
        place = Place(job["web"], job["revision"], job["prefix"], remote_pictures=False)
        left, shown = job["most"], []
        for one in comments_html(job["comments"], place, job["accounts"]):
            left -= len(one or "")
            shown.append(one if left >= 0 else None)
        return shown
    if "card" in job:
        result = card_html(job["card"], Place(job["web"], job["revision"]))
    else:
        result = code_lines(job["code"], job["name"])
    length = len(result) if isinstance(result, str) else sum(map(len, result))
    return result if length <= job["most"] else None
