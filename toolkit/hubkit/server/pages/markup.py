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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import nh3
from markdown_it import MarkdownIt
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
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
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

    def link(self, value: str, *, image: bool = False) -> str | None:
        """An address of the card as the page may have it, or None.

        ``https:``, ``http:`` and ``mailto:`` stay (of images ``https:`` only: a plain address may be a program of
        this machine), ``#part`` gets the prefix of ids, and a relative one leads to the file of that revision.
        """
        value = _CONTROL.sub(lambda found: "%20" if found[0] == " " else "", value.strip()).replace("\\", "/")
        if value.startswith("//"):
            value = f"https:{value}"
        if scheme := _SCHEME.match(value):
            schemes = {"https"} if image else {"https", "http", "mailto"}
            return value if scheme[1].lower() in schemes else None
        if value.startswith("#"):
            return f"#{ID_PREFIX}{value[1:]}" if value != "#" else value
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

    return nh3.clean(
        text, tags=set(_TAGS.split()), clean_content_tags=_DROPPED, attributes=_ATTRIBUTES, attribute_filter=keep,
        allowed_classes=_CLASSES, url_schemes={"http", "https", "mailto"}, id_prefix=ID_PREFIX,
        link_rel="nofollow noopener noreferrer ugc",
        set_tag_attribute_values={
            "input": {"type": "checkbox", "disabled": ""},
            "img": {"loading": "lazy", "decoding": "async"},
        },
    )  # fmt: skip


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


def card_html(text: str, place: Place) -> str:
    """Markdown as GitHub and the Hub read it (tables, task lists, footnotes, alerts, HTML), as safe HTML."""
    environment: dict[str, Any] = {}
    tokens = _parser().parse(text, environment)
    for token in tokens:
        # The alignment of a column comes as a style, which no card may have.
        if token.type in {"td_open", "th_open"} and (style := token.attrs.pop("style", None)):
            token.attrs["align"] = str(style).removeprefix("text-align:")
    return clean(_parser().renderer.render(tokens, _parser().options, environment), place)


def code_lines(text: str, name: str) -> list[str]:
    """The lines of a file called ``name`` as HTML, highlighted when its language is known by the name."""
    lexer: Lexer
    try:
        lexer = get_lexer_for_filename(name, stripnl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False)
    highlighted: str = highlight(text, lexer, _formatter())
    return highlighted.removesuffix("\n").split("\n")


def answer(job: dict[str, Any]) -> str | list[str] | None:
    """The HTML of a card, or of the lines of a file; None for more than ``most`` characters."""
    result: str | list[str]
    if "card" in job:
        result = card_html(job["card"], Place(job["web"], job["revision"]))
    else:
        result = code_lines(job["code"], job["name"])
    length = len(result) if isinstance(result, str) else sum(map(len, result))
    return result if length <= job["most"] else None
