"""What the server has done since its start, counted, and written in Prometheus' text format.

Written here in a few lines: the format is lines of text, and the client library would be one more thing to install.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
_KINDS = (
    ("git", re.compile(r"/([^/]+/){2,3}(info/refs|git-(upload|receive)-pack)")),
    ("lfs", re.compile(r"/lfs/.*|.*\.git/info/lfs/.*")),
    ("xet", re.compile(r"/api/xet/.*")),
    ("api", re.compile(r"/(api|oauth)/.*")),
    ("file", re.compile(r"/([^/]+/){2,3}(resolve|raw)/.*")),
)
_LABEL = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Sample = tuple[Mapping[str, str], float]


def kind_of(path: str) -> str:
    """What a request is about, by its path: ``git``, ``lfs``, ``xet``, ``api``, ``file`` or ``page``."""
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(path)), "page")


class Metrics:
    """Counts of requests. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._sent: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._buckets: dict[str, list[int]] = {}
        self._going = 0

    def begin(self) -> None:
        """A request has come."""
        with self._lock:
            self._going += 1

    def end(self, method: str, path: str, status: int, seconds: float, sent: int) -> None:
        """It was answered with ``status`` and ``sent`` bytes of body; 0 when it was not."""
        kind = kind_of(path)
        with self._lock:
            self._going -= 1
            self._requests[kind, method if method in _METHODS else "other", str(status)] += 1
            self._sent[kind] += sent
            self._seconds[kind] += seconds
            counts = self._buckets.setdefault(kind, [0] * (len(_BUCKETS) + 1))
            counts[bisect_left(_BUCKETS, seconds)] += 1

    def text(self) -> str:
        """The counts of requests, in Prometheus' text format."""
        with self._lock:
            requests = [
                ({"kind": kind, "method": method, "status": status}, float(count))
                for (kind, method, status), count in sorted(self._requests.items())
            ]
            sent = [({"kind": kind}, float(count)) for kind, count in sorted(self._sent.items())]
            going: list[Sample] = [({}, self._going)]
            seconds = [(kind, list(counts), self._seconds[kind]) for kind, counts in sorted(self._buckets.items())]
        return (
            lines("hubkit_requests_total", "counter", "Requests by kind, method and status.", requests)
            + lines("hubkit_response_bytes_total", "counter", "Bytes of bodies that were sent.", sent)
            + lines("hubkit_requests_in_progress", "gauge", "Requests that are being answered.", going)
            + _histogram(seconds)
        )


def _histogram(series: Iterable[tuple[str, list[int], float]]) -> str:
    name = "hubkit_request_seconds"
    text = f"# HELP {name} Seconds from a request's head to the end of its response.\n# TYPE {name} histogram\n"
    for kind, counts, seconds in series:
        total = 0
        for bound, count in zip([*map(str, _BUCKETS), "+Inf"], counts, strict=True):
            total += count
            text += _line(f"{name}_bucket", {"kind": kind, "le": bound}, total)
        text += _line(f"{name}_sum", {"kind": kind}, seconds) + _line(f"{name}_count", {"kind": kind}, total)
    return text


def lines(name: str, form: str, text: str, samples: Iterable[Sample]) -> str:
    """One metric of the form ``counter`` or ``gauge``, with its samples."""
    return f"# HELP {name} {text}\n# TYPE {name} {form}\n" + "".join(_line(name, *sample) for sample in samples)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{text.translate(_LABEL)}"' for key, text in labels.items())
    number = str(int(value)) if float(value).is_integer() else repr(float(value))
    return f"{name}{{{shown}}} {number}\n" if shown else f"{name} {number}\n"
