"""Recipes done by NNCF on a model of a few thousand weights: each key reaches the matrices that it means."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from msgspec import convert

from appliance.models import calibrating, nncf_choices
from appliance.models.calibrating import read_in_little_memory
from appliance.models.compression import inputs_of, number_names, quantized
from appliance.models.recipes import Recipe
from tests.support.ir import HIDDEN, INNER, LAYERS, VOCABULARY, logits, stored, texts, tiny_lm

EMBEDDING = "model.embed_tokens"


def recipe(**more: object) -> Recipe:
    return convert({"name": "r", "description": "x", "mode": "int4_asym", "group_size": 64, **more}, Recipe)


def done(wanted: Recipe, model: ov.Model | None = None) -> ov.Model:
    return quantized(model or tiny_lm(), wanted, texts() if wanted.methods else [], lambda *_: None)


def down(number: int) -> str:
    return f"model.layers[{number}].mlp.down_proj"


def up(number: int) -> str:
    return f"model.layers[{number}].mlp.up_proj"


def test_embedding_and_output_are_int8_and_the_others_in_groups() -> None:
    found = stored(done(recipe()))
    assert found[EMBEDDING] == ("u8", [VOCABULARY, HIDDEN])
    assert found[down(0)] == ("u4", [HIDDEN, INNER // 64, 64])
    assert found[up(2)] == ("u4", [INNER, 1, 64])
    assert "lm_head" not in found
    assert len(found) == 3 * LAYERS + 1


def test_names_do_not_tell_what_the_process_has_made_before(tmp_path: Path) -> None:
    written = []
    for number in range(2):
        model = done(recipe(embedding="int8_asym", lm_head="int4_asym"))
        number_names(model)
        ov.save_model(model, tmp_path / f"{number}.xml", compress_to_fp16=False)
        written.append((tmp_path / f"{number}.xml").read_text("utf-8"))
    assert written[0] == written[1]
    assert "lm_head.weight" in written[0]


def constants(model: ov.Model) -> list[bytes]:
    return sorted(node.data.tobytes() for node in model.get_ops() if node.get_type_name() == "Constant")


def test_reading_text_in_little_memory_leaves_the_result_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "LEAST_BYTES", 1)
    wanted = recipe(awq=True, scale_estimation=True, all_layers=True)
    usual = constants(done(wanted))
    widened = []
    append = calibrating._append_f32

    def watched(constant: ov.Node, file: Any) -> int:
        widened.append(constant.get_friendly_name())
        return append(constant, file)

    monkeypatch.setattr(calibrating, "_append_f32", watched)
    with read_in_little_memory(tmp_path):
        assert constants(done(wanted)) == usual
    assert len(widened) == 3 * LAYERS + 1
    assert list(tmp_path.iterdir()) == []


def test_a_tied_matrix_of_int4_stays_one() -> None:
    found = stored(done(recipe(all_layers=True, scale_estimation=True)))
    assert found[EMBEDDING] == ("u4", [VOCABULARY, 1, 64])
    assert "lm_head" not in found


def test_a_tied_matrix_becomes_two_where_they_are_to_differ() -> None:
    model = tiny_lm()
    before = logits(model, [1, 2, 3])
    after = done(recipe(lm_head="int4_sym", layers=[{"match": ["lm_head"], "group_size": 32}]), model)
    found = stored(after)
    assert found[EMBEDDING] == ("u8", [VOCABULARY, HIDDEN])
    assert found["lm_head"] == ("i4", [VOCABULARY, HIDDEN // 32, 32])
    assert np.corrcoef(before.ravel(), logits(after, [1, 2, 3]).ravel())[0, 1] > 0.95


def test_matrices_of_their_own_are_told_apart() -> None:
    found = stored(done(recipe(embedding="int4_asym"), tiny_lm(tied=False)))
    assert found[EMBEDDING] == ("u4", [VOCABULARY, 1, 64])
    assert found["lm_head"] == ("u8", [VOCABULARY, HIDDEN])


def test_single_matrices_get_other_bits_and_groups_or_stay() -> None:
    found = stored(
        done(
            recipe(
                ignored=["layers.1.mlp.up_proj"],
                layers=[
                    {"match": ["layers.-1.mlp.down_proj"], "mode": "int8_sym"},
                    {"match": ["*.down_proj"], "group_size": 32},
                ],
                awq=True,
                scale_estimation=True,
            )
        )
    )
    assert found[down(0)] == ("u4", [HIDDEN, INNER // 32, 32])
    assert found[down(2)] == ("i8", [HIDDEN, INNER])
    assert found[up(1)] == ("f16", [INNER, HIDDEN])
    assert found[up(0)] == ("u4", [INNER, 1, 64])


@pytest.mark.parametrize("metric", [None, "weight_quantization_error", "hessian_input_activation"])
def test_a_ratio_leaves_the_sensitive_matrices_at_int8(metric: str | None) -> None:
    types = [kind for kind, _ in stored(done(recipe(ratio=0.5, sensitivity_metric=metric))).values()]
    assert types.count("u8") > 2
    assert types.count("u4") > 2


def test_int8_is_int8_for_all() -> None:
    found = stored(done(convert({"name": "r", "description": "x", "mode": "int8_sym"}, Recipe)))
    assert {kind for kind, _ in found.values()} == {"i8"}


@pytest.mark.parametrize(
    "methods",
    [
        {"awq": True, "scale_estimation": True},
        {"gptq": True},
        {"awq": True, "scale_estimation": True, "gptq": True},
        {"gptq": True, "all_layers": True},
        {"awq": True, "scale_estimation": True, "lora_correction": True, "lora_rank": 4},
    ],
)
def test_methods_that_read_text_come_nearer_to_the_model_than_rounding(methods: dict[str, object]) -> None:
    reference = tiny_lm()
    plain = done(recipe(mode="int4_sym", all_layers=bool(methods.get("all_layers"))))
    better = done(recipe(mode="int4_sym", **methods))

    def error(model: ov.Model) -> float:
        return float(np.mean([np.abs(logits(model, ids) - logits(reference, ids)).mean() for ids in texts(6)]))

    assert error(better) < 1.02 * error(plain)  # of weights without any structure there is little to gain
    adapters = [op.get_friendly_name() for op in better.get_ops() if "_lora_" in op.get_friendly_name()]
    assert bool(adapters) == ("lora_correction" in methods)


def test_scales_estimated_in_slices_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(all_layers=True, scale_estimation=True)
    whole = done(wanted)
    monkeypatch.setattr(nncf_choices, "SLICE_ROWS", 40)
    sliced = done(wanted)
    assert np.array_equal(logits(whole, [4, 5, 6]), logits(sliced, [4, 5, 6]))


def test_a_pattern_that_means_nothing_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"recipe r: '\*\.w2' means no matrix of this model, which has embed_tokens, "):
        done(recipe(layers=[{"match": ["*.w2"], "mode": "int8_asym"}]))


def test_what_nncf_does_is_counted() -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    nncf_heard = recipe(awq=True, scale_estimation=True)
    quantized(tiny_lm(), nncf_heard, texts(), lambda what, done, total: told.setdefault(what, []).append((done, total)))
    assert list(told) == ["reading calibration text", "AWQ", "estimating scales", "writing integers"]
    assert told["reading calibration text"][0] == (0, 16)
    assert all(done < total for steps in told.values() for done, total in steps)


def test_a_model_that_reads_something_else_is_refused() -> None:
    model = tiny_lm()
    model.inputs[0].set_names({"pixels"})
    with pytest.raises(RuntimeError, match="the model reads pixels, which calibration text does not give"):
        inputs_of(model, [1, 2])
