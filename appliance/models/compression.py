"""Weights to integers, by NNCF. Runs in a process of its own; knows an IR, a recipe and the calibration text."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from openvino import opset13

from appliance.engine.genai.importing import open_tokenizer
from appliance.engine.genai.rendering import open_renderer
from appliance.models.calibrating import read_in_little_memory
from appliance.models.matrices import LM_HEAD, layer_count, short_name, wants_two
from appliance.models.nncf_choices import recipe_in_force, sliced_estimation
from appliance.models.nncf_progress import Tell, progress_told
from appliance.models.recipes import INT8, Calibration, Recipe
from appliance.models.texts import Sample, read_shipped, spread

DEFAULT_LORA_RANK = 8
MOST_COLUMNS = 64  # samples by which AWQ and scales are judged; 256 took four times as long, for the same distance

_NUMBERED = re.compile(r"([A-Z][A-Za-z]*)_(\d+)(.*)")

Encode = Callable[[str], list[int]]
Inputs = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.int64 | np.int32]]"]


def compress(directory: Path, recipe: Recipe, tell: Tell) -> None:
    """Replace the weights of the IR in `directory` by the recipe's; `tell` hears how far that is.

    Raises RuntimeError and others in NNCF's words, ValueError for a pattern that means no matrix; on a full disk
    RuntimeError.
    """
    core = ov.Core()
    texts = calibration_ids(directory, recipe.calibration_text) if recipe.calibration_text else []
    # GPTQ changes the model while it reads, again and again.
    lean = read_in_little_memory(directory) if texts and not recipe.gptq else nullcontext()
    with lean:
        model = quantized(core.read_model(directory / "openvino_model.xml"), recipe, texts, tell)
    _let_cache_be_quantized(model)
    number_names(model)
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


def number_names(model: ov.Model) -> None:
    """Number what OpenVINO has named by a counter of the process, such as Constant_43814, by its place in the graph.

    So the same weights and recipe give the same bytes, whatever else the processes have made before.
    """
    places: dict[str, int] = {}
    for op in model.get_ordered_ops():
        found = _NUMBERED.match(op.get_friendly_name())
        if found:
            kind, number, rest = found.groups()
            op.set_friendly_name(f"{kind}_{places.setdefault(number, len(places))}{rest}")


def quantized(model: ov.Model, recipe: Recipe, texts: list[list[int]], tell: Tell) -> ov.Model:
    """The model with the recipe's weights; `texts`: token ids, for recipes that read calibration text.

    What is given may be changed. Raises as `compress` does.
    """
    nncf.set_log_level(logging.ERROR)
    layers = layer_count([short_name(op.get_friendly_name()) for op in model.get_ops()])
    if wants_two(recipe, layers):
        untie(model)
    with recipe_in_force(recipe), sliced_estimation(), progress_told(tell):
        return nncf.compress_weights(model, **_options(model, recipe, texts))


def untie(model: ov.Model) -> None:
    """Give the output a matrix of its own where it is the embedding's; it is called lm_head.weight."""
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type() not in (ov.Type.f16, ov.Type.f32):
            continue
        readers = list(_readers(constant.output(0)))
        kinds = {reader.get_node().get_type_name() for reader in readers}
        if not {"Gather", "MatMul"} <= kinds:
            continue
        own = opset13.constant(constant.data, constant.get_element_type())
        own.set_friendly_name(f"{LM_HEAD}.weight")
        for reader in readers:
            if reader.get_node().get_type_name() == "MatMul":
                wanted = reader.get_source_output().get_element_type()
                source = own if wanted == own.get_element_type() else opset13.convert(own, wanted)
                reader.replace_source_output(source.output(0))


def _readers(output: ov.Output) -> Iterator[ov.Input]:
    """Inputs of the operations that read a constant, whatever converts it on the way."""
    for reader in output.get_target_inputs():
        if reader.get_node().get_type_name() == "Convert":
            yield from _readers(reader.get_node().output(0))
        else:
            yield reader


def _options(model: ov.Model, recipe: Recipe, texts: list[list[int]]) -> dict[str, object]:
    mode = nncf.CompressWeightsMode(recipe.mode)
    if recipe.mode in INT8:
        return {"mode": mode}
    options: dict[str, object] = {
        "mode": mode,
        "group_size": recipe.group_size,
        "ratio": recipe.ratio,
        "backup_mode": nncf.BackupMode(recipe.backup_mode),
        "awq": recipe.awq,
        "scale_estimation": recipe.scale_estimation,
        "gptq": recipe.gptq,
        "lora_correction": recipe.lora_correction,
    }
    if recipe.sensitivity_metric is not None:
        options["sensitivity_metric"] = nncf.SensitivityMetric(recipe.sensitivity_metric)
    if texts:
        options["dataset"] = nncf.Dataset(texts, lambda ids: inputs_of(model, ids))
        options["subset_size"] = len(texts)
    options["advanced_parameters"] = _advanced(recipe, max(1, len(texts)))
    return options


def _advanced(recipe: Recipe, samples: int) -> nncf.AdvancedCompressionParameters:
    from nncf.quantization import advanced_parameters as advanced

    return nncf.AdvancedCompressionParameters(
        # Rows of some models are no multiple of 64; without this those would all stay INT8.
        group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST,
        awq_params=advanced.AdvancedAWQParameters(subset_size=min(samples, MOST_COLUMNS)),
        scale_estimation_params=advanced.AdvancedScaleEstimationParameters(subset_size=min(samples, MOST_COLUMNS)),
        # Left alone, these would look at 128 of the samples, whatever the recipe says.
        gptq_params=advanced.AdvancedGPTQParameters(subset_size=samples),
        lora_correction_params=advanced.AdvancedLoraCorrectionParameters(
            adapter_rank=recipe.lora_rank or DEFAULT_LORA_RANK, subset_size=samples
        ),
    )


def calibration_ids(directory: Path, wanted: Calibration) -> list[list[int]]:
    """Token ids of the calibration text, by the tokenizer in `directory`; conversations by its chat template."""
    encode, _ = open_tokenizer(directory)
    render = open_renderer(directory)

    def ids_of(sample: Sample) -> list[int]:
        plain = render(sample.messages, False) if sample.messages else sample.text
        return encode(plain)[: wanted.tokens]

    return [ids_of(sample) for sample in spread(read_shipped("calibration"), wanted.samples)]


def inputs_of(model: ov.Model, ids: list[int]) -> Inputs:
    """What the model reads to see one text from its beginning. Raises RuntimeError for an input that nobody knows."""
    count = len(ids)
    known: Inputs = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    names = [each.get_any_name() for each in model.inputs]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RuntimeError(f"the model reads {', '.join(unknown)}, which calibration text does not give")
    return {name: known[name] for name in names}
