"""What the gates decided about each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hubkit.recipe.artifact import JsonArtifact

GateResult = Literal["passed", "failed", "failed (reported)"]


@dataclass(frozen=True)
class BenchmarkVerdict:
    """One condition on a benchmark of a variant, and what became of it.

    ``drop`` is how much worse the variant is than what it is compared with (``against``), with its ``stderr``; ``p`` is
    the probability of such a drop if the true one is at most ``margin``, and the condition failed if that is at most
    ``level``. ``n`` are the questions, ``changed`` those whose score changed (None: unpaired). ``detectable`` is the
    drop that is found with a probability of 90 %. ``note`` says why nothing was compared, or why not in pairs;
    ``commit`` is the one that was compared with, on the Hub.
    """

    benchmark: str
    against: Literal["base", "current"]
    margin: float
    result: Literal["passed", "failed", "not compared"]
    before: float | None = None
    after: float | None = None
    drop: float | None = None
    stderr: float | None = None
    p: float | None = None
    level: float | None = None
    n: int | None = None
    changed: int | None = None
    detectable: float | None = None
    note: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class GgufVerdict:
    """The stop rate of one GGUF file (``file``, of the type ``kind``), compared with the threshold of its variant.

    ``rate`` is None where it was not measured, and then it has not ``passed``.
    """

    file: str
    kind: str
    rate: float | None
    passed: bool


@dataclass(frozen=True)
class GateVerdict:
    """A variant's rates by published form, compared with ``threshold``, and its ``benchmarks``, a verdict each.

    ``passed`` is about the stop rate; True, and ``threshold`` None, without a gate on it. ``enforced``: a failure of
    either stops the release. ``gguf`` are the verdicts on its GGUF files, which ``result`` does not hold: a failure of
    one stops the release when ``gguf_enforced``. None without a gate on the stop rate.
    """

    passed: bool
    enforced: bool
    threshold: float | None
    rates: Mapping[str, float]
    benchmarks: tuple[BenchmarkVerdict, ...] = ()
    gguf: tuple[GgufVerdict, ...] = ()
    gguf_enforced: bool = False

    @property
    def all_passed(self) -> bool:
        """Whether no condition failed."""
        return self.passed and all(item.result != "failed" for item in self.benchmarks)

    @property
    def result(self) -> GateResult:
        """The verdict in words."""
        return "passed" if self.all_passed else "failed" if self.enforced else "failed (reported)"

    @property
    def gguf_result(self) -> GateResult | Literal["not measured (reported)"] | None:
        """The verdict on the GGUF files in words; None where none was judged.

        Where no file was measured that did not pass, a gate that only reports says that instead of a failure.
        """
        if not self.gguf:
            return None
        refused = [item.rate for item in self.gguf if not item.passed]
        if not refused:
            return "passed"
        if self.gguf_enforced:
            return "failed"
        return "failed (reported)" if any(rate is not None for rate in refused) else "not measured (reported)"


@dataclass(frozen=True)
class GatedBase:
    """The base's own stop rate, and a remark about it if it is low."""

    rate: float
    remark: str | None


@dataclass(frozen=True)
class GateVerdicts(JsonArtifact):
    """The verdict for each variant. ``base`` is None without a gate on the stop rate."""

    FILE = "gates.json"
    base: GatedBase | None
    variants: Mapping[str, GateVerdict]

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values; nothing of GGUF files for a variant of which none was judged."""
        plain = super().to_json()
        for verdict in plain["variants"].values():
            if not verdict["gguf"]:
                del verdict["gguf"], verdict["gguf_enforced"]
        return plain
