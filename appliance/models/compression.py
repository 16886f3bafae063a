"""Weights to integers, by NNCF. Runs in a process of its own; knows an IR and a recipe."""

import logging
from pathlib import Path

import nncf
import openvino as ov

from appliance.models.recipes import Recipe


def compress(directory: Path, recipe: Recipe) -> None:
    """Replace the weights of the IR in `directory` by the recipe's.

    Raises RuntimeError and others in NNCF's words; on a full disk RuntimeError.
    """
    nncf.set_log_level(logging.ERROR)
    model = nncf.compress_weights(
        ov.Core().read_model(directory / "openvino_model.xml"),
        mode=nncf.CompressWeightsMode(recipe.mode),
        group_size=recipe.group_size,
        ratio=1.0,
        all_layers=recipe.all_layers,
        backup_mode=nncf.BackupMode(recipe.backup_mode),
        advanced_parameters=nncf.AdvancedCompressionParameters(
            # Rows of some models are no multiple of 64; without this those would all stay INT8.
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST,
        ),
    )
    _let_cache_be_quantized(model)
    new = directory / "quantized.xml"
    ov.save_model(model, new, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        new.with_suffix(suffix).replace((directory / "openvino_model.xml").with_suffix(suffix))


def _let_cache_be_quantized(model: ov.Model) -> None:
    """Take out what optimum-intel writes into an IR with F16 weights: that its KV cache stay F16 too."""
    if model.has_rt_info(["runtime_options", "KV_CACHE_PRECISION"]):
        options = dict(model.get_rt_info("runtime_options").value)
        del options["KV_CACHE_PRECISION"]
        model.set_rt_info(options, "runtime_options")
