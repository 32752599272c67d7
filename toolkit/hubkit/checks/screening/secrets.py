"""Secrets in text, known by their shape. The value found is never kept, shown or put into an exception.

The shapes of the Hub and of what stands beside a training are our own; detect-secrets knows many more. Of its
detectors those are taken whose shape is strict: its keyword and entropy detectors take tokenizers, digests, commit
ids and images for secrets, its Artifactory, Twilio and Telegram ones take words and dates, and its IBM ones take
minutes for a large tokenizer. None of its verifiers, which would send what was found to a server, is ever called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Protocol

REACH = 8 * 1024
"""Characters that a text may be cut into pieces with in common, so that no secret is missed at a cut."""


class _Finder(Protocol):
    def spans(self, text: str) -> Iterator[tuple[int, int]]: ...


@dataclass(frozen=True)
class _Shape:
    """A secret called ``what``. Every match holds one of ``hints`` (lower case), which are looked for first."""

    what: str
    hints: tuple[str, ...]
    finder: _Finder


@dataclass(frozen=True)
class _Pattern:
    """Our own: a pattern whose group, or else the whole of it, is the secret. ``free``: nothing stuck to its left."""

    pattern: re.Pattern[str]
    free: bool

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        for found in self.pattern.finditer(text):
            group = found.re.groups and 1
            # Looked at here and not by the pattern, which is searched for ten times faster when it begins with letters.
            if self.free and not _FREE.fullmatch(text, max(0, found.start() - 20), found.start()):
                continue
            if not _placeholder(found[group]):
                yield found.span(group)


@dataclass(frozen=True)
class _Library:
    """A detector of detect-secrets, imported when a hint was met: its import takes a quarter of a second."""

    module: str
    name: str

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        for value in _detector(self.module, self.name).analyze_string(text):
            start = text.find(value)
            yield start, start + len(value)


class _Detector(Protocol):
    def analyze_string(self, string: str) -> Iterator[str]: ...


@cache
def _detector(module: str, name: str) -> _Detector:
    found: _Detector = getattr(import_module(f"detect_secrets.plugins.{module}"), name)()
    return found


def _own(what: str, hints: str, pattern: str, *, free: bool = False) -> _Shape:
    return _Shape(what, tuple(hints.split()), _Pattern(re.compile(pattern, re.ASCII), free))


# No letter before it, and not within a long run of base64 for URLs, where such letters stand by chance.
_FREE = re.compile(r"(?![A-Za-z0-9_-]{20})(?:.*[^A-Za-z0-9])?", re.DOTALL)
_MIXED = r"(?=[\w.-]{0,80}[0-9])(?=[\w.-]{0,80}[A-Za-z])"
_IS = r"[\"']?\s{0,3}[:=,(]\s{0,3}[\"']?"

_SHAPES = (
    # huggingface.co/docs/hub/security-tokens; huggingface_hub names api_org_ and hf_jwt_
    _own("a Hugging Face token", "hf_ api_org_", r"(?:hf|api_org)_[A-Za-z0-9]{30,}", free=True),
    _own(
        "a Hugging Face token",
        "hf_oauth_ hf_jwt_",
        r"hf_(?:oauth|jwt)_(?=[\w.-]{0,80}[0-9])(?=[\w.-]{0,80}[A-Z])[A-Za-z0-9._-]{20,}", free=True),
    _own("a GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,}", free=True),
    _own("a GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{60,}"),
    _own("an AWS access key", "akia asia", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9/+])", free=True),
    _own(
        "an AWS secret key",
        "aws",
        r"(?i:aws[_ -]?secret(?:[_ -]?access)?[_ -]?key)" + _IS + r"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])",
    ),
    _own(
        "an OpenAI or Anthropic key",
        "sk-",
        r"sk-(?:(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{32,}|[A-Za-z0-9]{32,})", free=True),
    _own(
        "a Weights & Biases key",
        "wandb",
        r"(?i:wandb)(?:(?s:.{0,60}?)(?i:key|token|login|password)\W{1,12}|" + _IS + r")([0-9a-f]{40})(?![0-9a-f])",
    ),
    _own("a Weights & Biases key", "wandb_v", r"wandb_v\d_[A-Za-z0-9_]{40,}"),
    _own("a private key", "private", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    _own("a private key", "putty-user-key-file", r"PuTTY-User-Key-File-\d"),
    _own("a Google key", "aiza ya29. gocspx-", r"(?:AIza|ya29\.|GOCSPX-)[A-Za-z0-9_-]{28,}", free=True),
    _own("a Groq, xAI or Perplexity key", "gsk_ xai- pplx-", r"(?:gsk_|xai-|pplx-)[A-Za-z0-9]{40,}", free=True),
    _own("a Replicate key", "r8_", r"r8_[A-Za-z0-9]{37}(?![A-Za-z0-9])", free=True),
    _own("a LangSmith key", "lsv2_", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}"),
    _own("a Kaggle key", "kgat_", r"KGAT_[0-9a-f]{32}"),
    _own("a Kaggle key", "kaggle", r"(?i:kaggle)(?s:.{0,80}?)(?i:key)\W{1,8}([0-9a-f]{32})(?![0-9a-f])"),
    _own("a Docker token", "dckr_", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{27,}"),
    _own("a DigitalOcean token", "_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
    _own("an npm token", "npm_", r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])", free=True),
    # discord.com/developers/docs/reference; the dot first, as few places have one there
    _own(
        "a Discord token",
        ".",
        r"\.(?:(?<=[MNO][\w-]{23}\.)|(?<=[MNO][\w-]{24}\.)|(?<=[MNO][\w-]{25}\.))[\w-]{6}\.[\w-]{27,38}(?![\w-])",
    ),
    _own("a Telegram token", ":aa", r"(?<![\w:])[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])"),
    _own("a Twilio key", "sk", r"SK[0-9a-f]{32}(?![A-Za-z0-9/+])", free=True),
    _own(
        "a password in a URL",
        "://",
        r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>{}$\\]{0,80}:([^\s/:@\"'<>{}$*\\]{3,200})@(?!example\.)[A-Za-z0-9\[]",
    ),
    *(
        _Shape(what, tuple(hints.split()), _Library(module, name))
        for what, hints, module, name in (
            ("an Azure storage key", "accountkey=", "azure_storage_key", "AzureStorageKeyDetector"),
            ("a Cloudant password", "cloudant", "cloudant", "CloudantDetector"),
            ("a GitLab token", "glpat- gldt- glft- glsoat- glrt- gr1348941 glcbt- glimt- glptt- glagent- gloas-",
             "gitlab_token", "GitLabTokenDetector"),
            ("a JSON web token", "eyj", "jwt", "JwtTokenDetector"),
            ("a Mailchimp key", "-us", "mailchimp", "MailchimpDetector"),
            ("an npm token", "_authtoken", "npm", "NpmDetector"),
            ("a PyPI token", "pypi-", "pypi_token", "PypiTokenDetector"),
            ("a SendGrid key", "sg.", "sendgrid", "SendGridDetector"),
            ("a Slack token", "xox hooks.slack.com", "slack", "SlackDetector"),
            ("a SoftLayer key", "softlayer", "softlayer", "SoftlayerDetector"),
            ("a Square secret", "sq0csp-", "square_oauth", "SquareOAuthDetector"),
            ("a Stripe key", "k_live_", "stripe", "StripeDetector"),
        )
    ),
    # last, as it says the least
    _own(
        "a key or token with its name",
        "apikey api_key api-key secretkey secret_key secret-key accesstoken access_token access-token"
        " authtoken auth_token auth-token clientsecret client_secret client-secret",
        r"(?i:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret)"
        + _IS + _MIXED + r"([A-Za-z0-9_-]{32,})",
    ),
)  # fmt: skip
_PLACEHOLDER = re.compile(
    r"(?i)pass(?:word|wd)?|pwd|secret|token|changeme|user(?:name)?|(?:your|my|the)[_-].*|(?:.*[_-])?x+"
)
_ESCAPE = re.compile(r"\\+(?:(?:u00|x|U000000)([0-7][0-9a-fA-F])|([nrtbf0])|([^\w\s]|_))")
_SPACE = " "


def _placeholder(value: str) -> bool:
    """Whether ``value`` is a placeholder for a secret: ``hf_xxxx``, ``your-token``."""
    return bool(_PLACEHOLDER.fullmatch(value))


def spans(text: str) -> Iterator[tuple[str, int, int]]:
    """(what it is, start, end) of each secret in ``text``, without changes; each place once."""
    lowered = text.lower()
    taken: list[tuple[int, int]] = []
    for shape in _SHAPES:
        if any(hint in lowered for hint in shape.hints):
            for start, end in shape.finder.spans(text):
                if not any(begin < end and start < stop for begin, stop in taken):
                    taken.append((start, end))
                    yield shape.what, start, end


def mask(text: str) -> str:
    """``text`` with a mark in place of each secret: for names of files and keys that are printed."""
    for _, start, end in sorted(spans(text), key=lambda item: -item[1]):
        text = f"{text[:start]}[secret]{text[end:]}"
    return text


def find(text: str) -> Iterator[tuple[str, int]]:
    """(what it is, line from 0) of each secret in ``text``: as it stands, and with escapes of JSON and YAML undone.

    A run of backslashes is one escape, as text that was escaped twice has more of them.
    """
    views = [text]
    if "\\" in text:
        views.append(_ESCAPE.sub(_unescaped, text))
    if "\0" in text:
        views.append(text.replace("\0", ""))
    for view in views:
        for what, start, _ in spans(view):
            yield what, view.count("\n", 0, start)


def first(text: str) -> str | None:
    """What the first secret found in ``text`` is; None when there is none."""
    return next((what for what, _ in find(text)), None)


def _unescaped(found: re.Match[str]) -> str:
    code, blank, sign = found.groups()
    # Line breaks become blanks, so that the count of lines stays that of the file.
    character = chr(int(code, 16)) if code else _SPACE if blank else str(sign)
    return _SPACE if character in "\r\n" else character
