"""The recipe's ``gguf``: which variants are also published as GGUF files, for llama.cpp, Ollama and LM Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from hubkit.recipe.names import MAIN
from hubkit.recipe.values import Branch, Model, RepoId

GgufType = Literal[
    "f16", "bf16", "q8_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1",
    "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
]  # fmt: skip
"""Those of :mod:`hubkit.models.gguf.layout`: the first three are hubkit's own, the others llama.cpp's quantizer's."""


def example_type(types: Sequence[str]) -> str:
    """The type that commands name, and that Ollama's Modelfile loads: q8_0 where it is there, else the first."""
    return "q8_0" if "q8_0" in types else types[0]


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("name at least one")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return names


Types = Annotated[tuple[GgufType, ...], AfterValidator(_each_once), Field(strict=False)]
Suites = Annotated[tuple[str, ...], Field(strict=False)]
Variants = Annotated[tuple[Branch, ...], AfterValidator(_each_once), Field(strict=False)]


class Gguf(Model):
    """GGUF files written from the merged weights, measured and published with them. Needs the extra ``gguf``."""

    types: Types = Field(
        ("f16", "q8_0"),
        description="a file in each of these types: f16, bf16, q8_0, or by llama.cpp's quantizer q4_k_m and others",
    )
    variants: Variants = Field((MAIN,), description="the variants that are also published as GGUF")
    place: Literal["branch", "folder", "repo"] = Field(
        "branch",
        description="branch: on a branch of the variant's repo, `gguf` for main and VARIANT-gguf for others; folder: "
        "in `gguf/` beside the weights; repo: on main of a repo of their own",
    )
    repo: RepoId | None = Field(
        None,
        description="with `place: repo` and one variant, that repo; when absent, the recipe's `repo` and -GGUF, or "
        "-VARIANT-GGUF",
    )
    ollama: bool = Field(True, description="write Ollama's files beside them: Modelfile, template, params and system")
    prompts: int | None = Field(
        None,
        gt=0,
        description="how many of the prompts of `gates.stop_rate` each file is asked, by llama-cpp-python; all of them "
        "when absent",
    )
    benchmarks: Suites = Field(
        (),
        description="suites of `evaluate` that are run on each file, too, by llama-cpp-python on the CPU; none when "
        "absent",
    )
    gate: Literal["enforce", "report"] | None = Field(
        None,
        description="enforce: publish only if the stop rate of each file passes the gate; report: publish and report "
        "it on the card; the variant's own `gate` when absent",
    )

    @model_validator(mode="before")
    @classmethod
    def _unknown(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("repo") and given.get("place") != "repo":
            raise ValueError("`repo` needs `place: repo`")
        return given
