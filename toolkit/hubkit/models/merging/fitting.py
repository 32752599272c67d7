"""From what PEFT makes of an adapter on the base's model to changes of the checkpoint's tensors.

Here are tied embeddings taken apart where the adapter trained one of them, resized vocabularies, stacked experts that
the checkpoint keeps one by one, and whatever else has other names in the files than in the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hubkit.core.errors import RefusedError
from hubkit.models.merging.by_name import PREFIX, check_shape, of_pattern
from hubkit.models.merging.changes import Change, CopiedTensor, ReplacedTensor, ShiftedBias, TokenRows
from hubkit.models.merging.checkpoint_names import Part
from hubkit.models.merging.low_rank import Dora, ExpertLowRank, LowRank
from hubkit.models.merging.resolution import Claim, NotLocalError, Resolution, resolve
from hubkit.models.merging.support import BY_PEFT, TIED_ACTION, tied_problem
from hubkit.models.tensors import Header

Shape = tuple[int, ...]
_PER_EXPERT = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B)\.weight")


def fitted(
    settings: Mapping[str, Any], header: Header, base: Mapping[str, Shape], config: Mapping[str, Any]
) -> tuple[dict[str, Change], dict[str, Any]]:
    """The changes by the base's tensor name, and what changes of config.json. ``base``: its shapes by tensor name.

    RefusedError when the adapter does not fit; NotLocalError when PEFT itself must merge it.
    """
    if variant := next((key for key in BY_PEFT if settings.get(key)), None):
        raise NotLocalError(f"a variant of LoRA ({variant})")
    resolution = resolve(settings, config, base)
    lora = [claim.parameter for claim in resolution.claims if claim.kind in {"linear", "embedding", "experts"}]
    tied = {name: next(other for other in group if other != name) for name, group in resolution.groups.items()}
    if problem := tied_problem(lora, tied):
        raise RefusedError(f"This adapter cannot be merged: {problem}.", hint=TIED_ACTION)
    work = _Fitting(settings, {name: item.shape for name, item in header.tensors.items()}, base, resolution)
    return work.changes(), work.config


@dataclass
class _Fitting:
    settings: Mapping[str, Any]
    tensors: Mapping[str, Shape]
    base: Mapping[str, Shape]
    resolution: Resolution
    config: dict[str, Any] = field(default_factory=dict)
    found: dict[str, Change] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def changes(self) -> dict[str, Change]:
        """All of them; every tensor of the adapter is used, or the adapter is refused."""
        missing: list[Claim] = []
        saved: dict[str, Claim] = {}
        for claim in self.resolution.claims:
            absent = [name for name in claim.tensors.values() if name not in self.tensors]
            if claim.kind == "saved":
                saved[claim.parameter] = claim
            elif absent:
                missing.append(claim)
            elif claim.kind == "tokens":
                self._tokens(claim)
            else:
                self._lora(claim)
        self._saved(saved)
        self._rest(missing)
        self._resize()
        return self.found

    def _take(self, name: str) -> str:
        self.used.add(name)
        return name

    def _parts(self, parameter: str) -> tuple[Part, ...]:
        """The base's tensors with ``parameter``, under any of its names."""
        names = self.resolution.names(parameter)
        if any(name in self.resolution.layout.mixed for name in names):
            raise NotLocalError(f"{parameter} is kept in another form in the base's files")
        parts = tuple(part for name in names for part in self.resolution.layout.parts.get(name, ()))
        if not parts:
            raise RefusedError(
                f"The adapter changes {parameter}, which the base does not have.",
                hint="It was trained on another base, or this architecture's files use other names.",
            )
        return parts

    def _put(self, name: str, change: Change) -> None:
        if name in self.found:
            raise NotLocalError(f"{name} is changed in two ways")
        self.found[name] = change

    def _frozen(self, claim: Claim) -> str | None:
        """The adapter's own copy of what ``claim`` was trained on, as PEFT saves it of embeddings."""
        inner = "token_adapter.base_layer" if claim.kind == "tokens" else "base_layer"
        name = f"{PREFIX}{claim.module}.{inner}.weight"
        return self._take(name) if name in self.tensors else None

    def _lora(self, claim: Claim) -> None:
        a, b = self._take(claim.tensors["a"]), self._take(claim.tensors["b"])
        one, other = self.tensors[a], self.tensors[b]
        ranks = claim.rank * claim.experts
        if len(one) != 2 or len(other) != 2 or not one[0] == other[1] == ranks:
            raise RefusedError(
                f"The adapter's tensors for {claim.module} have shapes {one} and {other}, not rank {ranks}."
            )
        outputs, inputs = other[0], one[1]
        if claim.kind == "experts":
            self._experts(claim, outputs, inputs)
            return
        shape = (inputs, outputs) if claim.transposed else (outputs, inputs)
        frozen = self._frozen(claim)
        for part in self._parts(claim.parameter):
            if "magnitude" in claim.tensors:
                magnitude = self._take(claim.tensors["magnitude"])
                change: Change = Dora(
                    claim.module, a, b, magnitude, claim.scaling, claim.transposed, shape, frozen=frozen
                )
            else:
                change = LowRank(claim.module, a, b, claim.scaling, claim.transposed, shape, frozen=frozen)
            self._check(part.name, claim.parameter, change.shape)
            self._put(part.name, change)
        if "bias" in claim.tensors:
            self._bias(claim)

    def _bias(self, claim: Claim) -> None:
        source = self._take(claim.tensors["bias"])
        names = [f"{PREFIX}{claim.module}.{own}" for own in ("base_layer.bias", "bias")]
        trained = next((self._take(name) for name in names if name in self.tensors), None)
        for part in self._parts(f"{claim.module}.bias"):
            shape = self.tensors[source]
            self._check(part.name, f"{claim.module}.bias", shape)
            self._put(part.name, ShiftedBias(claim.module, source, claim.scaling, shape, frozen=trained))

    def _experts(self, claim: Claim, outputs: int, inputs: int) -> None:
        whole = (claim.experts, *((inputs, outputs) if claim.transposed else (outputs, inputs)))
        parts = self._parts(claim.parameter)
        change = ExpertLowRank(
            claim.module,
            claim.tensors["a"],
            claim.tensors["b"],
            claim.scaling,
            claim.experts,
            claim.transposed,
            whole,
        )
        rows = {part.expert: 0 for part in parts}
        for part in parts:
            if part.expert is None:
                self._check(part.name, claim.parameter, whole)
                self._put(part.name, change)
                continue
            rows[part.expert] += part.shape[0]
            self._check(part.name, claim.parameter, (part.shape[0], whole[2]))
            self._put(part.name, replace(change, shape=part.shape, expert=part.expert, first=part.first))
        if None not in rows and (len(rows) != claim.experts or set(rows.values()) != {whole[1]}):
            raise RefusedError(
                f"The adapter's change to {claim.parameter} has the shape {whole}; the base has {len(rows)} experts "
                f"of {max(rows.values())} rows.",
                hint="It was trained on another base.",
            )

    def _tokens(self, claim: Claim) -> None:
        if not claim.tensors:  # tied to another one; PEFT saves both when the vocabulary was resized
            own = f"{PREFIX}{claim.module}.token_adapter."
            self.used |= {name for name in self.tensors if name.startswith(own)}
            return
        mates = {item.parameter for item in self.resolution.claims if item.kind == "tokens" and item is not claim}
        if mates & set(self.resolution.names(claim.parameter)) and any(
            item.tensors for item in self.resolution.claims if item.kind == "tokens" and item is not claim
        ):
            raise RefusedError(
                f"This adapter cannot be merged: it trains different tokens of {claim.parameter} and of what is tied "
                "to it, and PEFT's merge would change both.",
                hint="Give trainable_token_indices one list for tied embeddings.",
            )
        source = self._take(claim.tensors["source"])
        frozen = self._frozen(claim)
        for part in self._parts(claim.parameter):
            shape = self.tensors[frozen] if frozen else part.shape
            if self.tensors[source] != (len(claim.indices), shape[-1]) or max(claim.indices, default=0) >= shape[0]:
                raise RefusedError(
                    f"The adapter's tokens for {claim.module} have the shape {self.tensors[source]}, the base's tensor "
                    f"{shape}.",
                    hint="It was trained on another base, or on one whose embeddings were resized.",
                )
            self._check(part.name, claim.parameter, shape)
            self._put(part.name, TokenRows(claim.module, source, claim.indices, shape, frozen=frozen))

    def _saved(self, saved: Mapping[str, Claim]) -> None:
        """``modules_to_save``. Of tied ones PEFT keeps what it was told to tie; others get tensors of their own."""
        done: set[str] = set()
        for parameter, claim in saved.items():
            if parameter in done:
                continue
            group = self.resolution.names(parameter)
            done |= set(group)
            copies = {saved[name].saved_as if name in saved else 0 for name in group}
            source = claim.tensors["source"]
            for name in group:
                if name in saved and saved[name].tensors["source"] in self.tensors:
                    source = self._take(saved[name].tensors["source"])
            if source not in self.tensors:
                raise RefusedError(f"The adapter lacks {source}, which modules_to_save names.")
            if len(copies) == 1:
                for part in self._parts(parameter):
                    self._replace(part.name, parameter, claim.module, source)
            else:
                self._untie(group, saved)

    def _replace(self, name: str, parameter: str, module: str, source: str, *, expected: bool = True) -> None:
        self._check(name, parameter, self.tensors[source])
        self._put(name, ReplacedTensor(module, source, self.tensors[source], expected=expected))

    def _untie(self, group: tuple[str, ...], saved: Mapping[str, Claim]) -> None:
        """Each name of a tied tensor gets a tensor of its own: the trained copy, or the base's."""
        origin = self._parts(group[0])[0]
        for name in group:
            parts = self.resolution.layout.parts.get(name, ())
            file_name, module = parts[0].name if parts else name, name.rpartition(".")[0]
            if claim := saved.get(name):
                source = claim.tensors["source"]
                if source not in self.tensors:
                    raise RefusedError(f"The adapter lacks {source}, which modules_to_save names.")
                self._check(origin.name, name, self.tensors[source])
                self._put(file_name, ReplacedTensor(module, source, self.tensors[source], origin.name))
            elif file_name != origin.name:
                self._put(file_name, CopiedTensor(module, origin.shape, origin.name))
        self.config["tie_word_embeddings"] = False

    def _rest(self, missing: list[Claim]) -> None:
        """Trained biases, resized embeddings, experts one by one; what is left is refused."""
        left = [name for name in self.tensors if name not in self.used]
        modules = {claim.module for claim in self.resolution.claims if claim.kind == "saved"}
        copies = tuple(f"{module}.{own}." for module in modules for own in ("modules_to_save", "original_module"))
        experts: dict[str, dict[str, str]] = {}
        replaced: dict[str, str] = {}
        for name in left:
            own = name.removeprefix(PREFIX)
            if own.startswith(copies):
                continue  # PEFT saves a resized embedding once more under the names of its wrapper
            if (pair := _PER_EXPERT.fullmatch(own)) and f"{pair['module']}.weight" in self.base:
                experts.setdefault(pair["module"], {})[pair["part"]] = name
                continue
            parameter = own.replace(".base_layer.", ".")
            names = self.resolution.names(parameter)
            if (
                ".lora_" in own
                or ".token_adapter." in own
                or not any(item in self.resolution.layout.parts for item in names)
            ):
                raise RefusedError(
                    f"The adapter's tensor {name!r} has an unsupported type.",
                    hint="PEFT would ignore it; was the adapter trained on this base?",
                )
            first = replaced.get(names[0])
            if first is not None and self.tensors[first] != self.tensors[name]:
                raise RefusedError(f"The adapter has two tensors for {parameter}, of different shapes.")
            replaced[names[0]] = name
        for first, name in replaced.items():
            for part in self._parts(first):
                self._replace(part.name, first, first.rpartition(".")[0], name, expected=False)
        covered = {name for module, pair in experts.items() for name in self._one_expert(module, pair)}
        for claim in missing:
            if claim.parameter not in covered:
                lacks = next(name for name in claim.tensors.values() if name not in self.tensors)
                raise RefusedError(
                    f"The adapter lacks {lacks}, which its settings name.",
                    hint="It was trained on another base, or its files are of two adapters.",
                )

    def _one_expert(self, module: str, pair: Mapping[str, str]) -> set[str]:
        """LoRA on one expert's matrix, trained when transformers kept it as a layer; the parameter that it is in."""
        if len(pair) != 2:
            raise RefusedError(f"The adapter has only {', '.join(sorted(pair))} for {module}.")
        a, b = pair["lora_A"], pair["lora_B"]
        rank = of_pattern(self.settings.get("rank_pattern"), module, self.settings["r"])
        alpha = of_pattern(self.settings.get("alpha_pattern"), module, self.settings["lora_alpha"])
        scaling = alpha / rank**0.5 if self.settings.get("use_rslora") else alpha / rank
        shape = (self.tensors[b][0], self.tensors[a][1])
        if not self.tensors[a][0] == self.tensors[b][1] == rank:
            raise RefusedError(f"The adapter's tensors for {module} are not of rank {rank}.")
        check_shape(f"{module}.weight", shape, self.base.get(f"{module}.weight"))
        self._put(f"{module}.weight", LowRank(module, a, b, scaling, False, shape))
        return {
            parameter
            for parameter, parts in self.resolution.layout.parts.items()
            if any(part.name == f"{module}.weight" for part in parts)
        }

    def _check(self, name: str, parameter: str, shape: Shape) -> None:
        """The shape of a result: the base's own, but for the number of tokens of an embedding."""
        there = self.base.get(name)
        embedding = set(self.resolution.names(parameter)) & self.resolution.embeddings
        if embedding and there and shape[1:] == there[1:]:
            return
        check_shape(name, shape, there)

    def _resize(self) -> None:
        """The same number of tokens in all embeddings, and in config.json."""
        sizes: dict[int, str] = {}
        resized = False
        for parameter in sorted(self.resolution.embeddings):
            for name in {parameter, *(part.name for part in self.resolution.layout.parts.get(parameter, ()))}:
                change, there = self.found.get(name), self.base.get(name)
                if shape := change.shape if change else there:
                    resized |= there is not None and shape[0] != there[0]
                    sizes.setdefault(shape[0], name)
        if resized and len(sizes) > 1:
            found = ", ".join(f"{name} has {rows:,} tokens" for rows, name in sizes.items())
            raise RefusedError(
                f"The adapter resizes the vocabulary, but {found}.",
                hint="Save it again with save_pretrained(save_embedding_layers=True).",
            )
        if resized:
            self.config["vocab_size"] = next(iter(sizes))
