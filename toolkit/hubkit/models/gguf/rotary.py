"""The rotary embedding of a model as GGUF has it: keys, and the tables of factors that are tensors of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hubkit.core.errors import RefusedError

FULL, WINDOW = "full_attention", "sliding_attention"
Tables = Mapping[str, Any]
"""Float32 arrays by the name of their tensor."""


def write_rotary(writer: Any, config: Mapping[str, Any]) -> Tables:
    """Add the keys of the rotary embedding to ``writer``; the tables that belong in the file.

    ``config`` is config.json as transformers completes it. RefusedError for a kind that GGUF has no keys for, and for
    settings that are missing or no numbers.
    """
    try:
        return _write(writer, config)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise _refused(f"rope_parameters in config.json are not complete ({type(error).__name__}: {error})") from error


def _write(writer: Any, config: Mapping[str, Any]) -> Tables:
    found = config.get("rope_parameters") or {}
    full = found.get(FULL, found)
    kind = full.get("rope_type") or "default"
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    partial = full.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if partial != 1.0 and config["model_type"] != "phi3":
        raise _refused(f"only {partial} of each head is rotated (partial_rotary_factor)")
    rotated = int(head * partial)
    writer.add_rope_dimension_count(rotated)
    writer.add_rope_freq_base(float(full["rope_theta"]))
    if WINDOW in found:
        if (found[WINDOW].get("rope_type") or "default") != "default":
            raise _refused("the layers with a window have a scaled rotary embedding")
        writer.add_rope_freq_base_swa(float(found[WINDOW]["rope_theta"]))
    if kind == "default":
        return {}
    if kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(full["factor"]))
        return {}
    if kind == "yarn":
        _write_yarn(writer, full, config)
        return {}
    if kind == "llama3":
        return {"rope_freqs.weight": _llama3(full, rotated)}
    if kind in {"longrope", "su"} and config["model_type"] == "phi3":
        return _long(writer, full, config, rotated)
    raise _refused(f"its scaling is {kind!r}")


def _refused(problem: str) -> RefusedError:
    return RefusedError(
        f"The rotary embedding cannot be written as GGUF: {problem}.",
        hint="Convert it with llama.cpp's convert_hf_to_gguf.py, and compare its answers with transformers'.",
    )


def _write_yarn(writer: Any, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    from gguf import RopeScalingType

    usual = 0.1 * math.log(found["factor"]) + 1.0
    given = found.get("attention_factor")
    if any(found.get(key) for key in ("mscale", "mscale_all_dim")) or (given and not math.isclose(given, usual)):
        raise _refused("its YaRN scales attention by another factor than llama.cpp's")
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(found["factor"]))
    original = found.get("original_max_position_embeddings") or config["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(int(original))
    if found.get("beta_fast"):
        writer.add_rope_scaling_yarn_beta_fast(float(found["beta_fast"]))
    if found.get("beta_slow"):
        writer.add_rope_scaling_yarn_beta_slow(float(found["beta_slow"]))


def _llama3(found: Mapping[str, Any], rotated: int) -> Any:
    """By what each frequency is divided: 1 for short waves, ``factor`` for long ones, between them in between."""
    import numpy

    factor, low, high = (float(found[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(found["original_max_position_embeddings"])
    frequencies = 1.0 / (float(found["rope_theta"]) ** (numpy.arange(0, rotated, 2, dtype=numpy.float64) / rotated))
    waves = 2 * math.pi / frequencies
    smooth = (original / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    table = numpy.where(waves < original / high, 1.0, numpy.where(waves > original / low, factor, between))
    return table.astype(numpy.float32)


def _long(writer: Any, found: Mapping[str, Any], config: Mapping[str, Any], rotated: int) -> Tables:
    """The factors for short and long contexts of Phi-3, and the scale of its attention."""
    import numpy

    original = found.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    if not original:
        raise _refused("original_max_position_embeddings is missing")
    scale = config["max_position_embeddings"] / original
    usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    if (given := found.get("attention_factor")) and not math.isclose(given, usual):
        raise _refused(f"its attention is scaled by {given}, llama.cpp's by {usual:.6g}")
    writer.add_rope_scaling_orig_ctx_len(int(original))
    writer.add_rope_scaling_attn_factors(usual)
    tables = {
        "rope_factors_long.weight": numpy.asarray(found["long_factor"], numpy.float32),
        "rope_factors_short.weight": numpy.asarray(found["short_factor"], numpy.float32),
    }
    if any(table.shape != (rotated // 2,) for table in tables.values()):
        raise _refused(f"long_factor and short_factor must have {rotated // 2} numbers each")
    return tables
