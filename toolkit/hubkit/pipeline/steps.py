"""The release, as one list: every step in order. Start reading here; the list is the program.

A step runs a stage (``hubkit_stages``, found through the entry-point group ``hubkit.stages``). ``per`` is how often:
once per release, for each training stage of the recipe, or for each variant. ``inputs`` are the artifacts that fill the
fields of the stage's ``Inputs``; what it reads of the recipe is its ``Settings``.
"""

from __future__ import annotations

from hubkit.pipeline.step_inputs import Step, continued, every, one, own, rows_of

# fmt: off
STEPS = (
    Step("provide", "provide", per="release", does="create what the embedded Hub lacks", alone=True),
    Step("base", "base", per="release", does="pin the base model to a commit; find its end-of-turn token",
         inputs={"provided": one("provide")}),
    Step("data", "data", per="release", does="map and check the rows; hold out prompts",
         inputs={"provided": one("provide"), "base": one("base")}),
    Step("base-stopping", "stopping", per="release", does="measure the stop rate of the base",
         inputs={"base": one("base"), "data": one("data")}),
    Step("base-scores", "evaluate", per="release", does="run the benchmarks on the base",
         inputs={"base": one("base")}),
    Step("train", None, per="stage", does="train an adapter", alone=True, dear=True,
         inputs={"base": one("base"), "rows": rows_of("data"), "previous": continued("train")}),
    Step("merge", "merge", per="variant", does="merge the adapter into the base",
         inputs={"base": one("base"), "adapter": own("train")}),
    Step("stopping", "stopping", per="variant", does="measure the stop rate of each published form",
         inputs={"base": one("base"), "data": one("data"), "adapter": own("train"), "merged": own("merge")}),
    Step("evaluate", "evaluate", per="variant", does="run the benchmarks on the merged weights",
         inputs={"base": one("base"), "merged": own("merge")}),
    Step("gguf", "gguf", per="variant", does="write GGUF files from the merged weights; measure their stop rate",
         inputs={"base": one("base"), "data": one("data"), "merged": own("merge")}),
    Step("readers", "readers", per="variant", does="have other programs, in pinned versions, read what is published",
         inputs={"base": one("base"), "data": one("data"), "adapter": own("train"), "merged": own("merge"),
                 "gguf": own("gguf")}),
    Step("gate", "gate", per="release", does="compare what was measured with the gates",
         inputs={"base": one("base-stopping"), "variants": every("stopping"),
                 "base_benchmarks": one("base-scores"), "benchmarks": every("evaluate"), "gguf": every("gguf")}),
    Step("card", "card", per="variant", does="write the cards from the measurements",
         inputs={"base": one("base"), "data": one("data"), "adapters": every("train"), "merged": own("merge"),
                 "base_stop_rate": one("base-stopping"), "stop_rates": every("stopping"), "gates": one("gate"),
                 "base_benchmarks": one("base-scores"), "benchmarks": every("evaluate"), "scores": own("evaluate"),
                 "gguf": own("gguf"), "readers": own("readers")}),
    Step("publish", "publish", per="variant", does="upload to a staging branch; verify what the Hub holds",
         inputs={"base": one("base"), "data": one("data"), "adapter": own("train"), "adapters": every("train"),
                 "merged": own("merge"), "cards": own("card"), "stop_rates": own("stopping"), "gates": one("gate"),
                 "gguf": own("gguf")}),
    Step("publish-gguf", "publish_gguf", per="variant",
         does="upload the GGUF files to a staging branch; verify and load them back",
         inputs={"base": one("base"), "data": one("data"), "merged": own("merge"), "gguf": own("gguf"),
                 "cards": own("card")}),
    Step("loadback", "loadback", per="variant", does="load the staged commit back; prove the merge; check the gates",
         inputs={"staged": own("publish"), "base": one("base"), "data": one("data"), "adapter": own("train"),
                 "merged": own("merge"), "stop_rates": own("stopping"), "gates": one("gate")}),
    Step("snippets", "snippets", per="variant", does="run the cards' Python code blocks against the staged commit",
         inputs={"base": one("base"), "staged": own("publish"), "loaded_back": own("loadback"), "merged": own("merge"),
                 "adapter": own("train"), "gguf": own("publish-gguf")}),
    Step("promote", "promote", per="release", does="move the branches to the staged commits, main last", lasting=True,
         inputs={"staged": every("publish"), "loaded_back": every("loadback"), "snippets": every("snippets"),
                 "gguf": every("publish-gguf")}),
    Step("space", "space", per="release", lasting=True,
         does="build the Space, test it locally, deploy it, send a test prompt",
         inputs={"base": one("base"), "merged": every("merge"), "stop_rates": every("stopping"),
                 "base_stop_rate": one("base-stopping"), "base_benchmarks": one("base-scores"),
                 "benchmarks": every("evaluate"), "released": one("promote")}),
    Step("collection", "collection", per="release", does="list the repos, the Space and the papers in a collection",
         lasting=True, inputs={"released": one("promote"), "space": one("space")}),
    Step("new-version", "new_version", per="release", does="write `new_version` to the cards of the repos it replaces",
         lasting=True, inputs={"released": one("promote")}),
)
# fmt: on
