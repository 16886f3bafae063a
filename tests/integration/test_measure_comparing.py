"""Models side by side on OpenVINO itself: a model of a few numbers, whose logits are known without it."""

from pathlib import Path

import numpy as np
import pytest

from appliance.engine.telemetry import silence_telemetry
from appliance.models.measuring.divergence import Floats, Scores
from appliance.models.measuring.tokens import Tokens

silence_telemetry()  # before anything imports OpenVINO

from appliance.models.measuring import comparing  # noqa: E402 # see silence_telemetry

VOCABULARY = 50


def table(seed: int, vocabulary: int = VOCABULARY) -> Floats:
    return np.random.default_rng(seed).normal(0, 3, (vocabulary, vocabulary)).astype(np.float32)


def save(directory: Path, logits: Floats) -> Path:
    """An IR that expects after each token what its row of `logits` says, whatever came before."""
    import openvino as ov
    from openvino import opset13

    ids = opset13.parameter([-1, -1], np.int64, "input_ids")
    ids.output(0).get_tensor().set_names({"input_ids"})
    gathered = opset13.gather(opset13.constant(logits), ids, opset13.constant(np.int64(0)))
    gathered.output(0).get_tensor().set_names({"logits"})
    directory.mkdir()
    ov.save_model(ov.Model([gathered], [ids]), directory / "openvino_model.xml", compress_to_fp16=False)
    return directory


def test_the_figures_are_those_of_the_counted_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "CHUNK_TOKENS", 4)
    ids = np.random.default_rng(9).integers(0, VOCABULARY, 11)
    counted = [0, 3, 4, 7, 8, 9]  # on both sides of where a sample is cut
    samples = [Tokens(ids.tolist(), counted, False), Tokens([1], [], False), Tokens([5, 6], [0], False)]
    reference, artefacts = table(0), [table(1), table(2), table(0)]
    directories = [save(tmp_path / str(number), logits) for number, logits in enumerate([reference, *artefacts])]
    told: list[tuple[int, int]] = []
    wrong, scores = comparing.scores_of(
        directories[0], directories[1:], samples, 1, lambda done, total: told.append((done, total))
    )
    assert wrong is None
    for logits, found in zip(artefacts, scores, strict=True):
        expected = Scores()
        for sample in samples:
            expected.begin_sample()
            at = np.array(sample.ids)[sample.counted].astype(np.int64)
            after = np.array([sample.ids[position + 1] for position in sample.counted], np.int64)
            expected.add(reference[at], logits[at], after)
        assert found.quality([0, 2]) == expected.quality([0, 2])
    assert scores[2].quality([0, 2]).mean_kl == 0.0
    assert told[0] == (0, 14)
    assert told[-1] == (14, 14)
    assert told == sorted(told)


def test_another_vocabulary_is_found_out(tmp_path: Path) -> None:
    directories = [save(tmp_path / str(size), table(0, size)) for size in (50, 51)]
    samples = [Tokens([1, 2, 3], [0, 1], False)]
    wrong, _ = comparing.scores_of(directories[0], directories, samples, 1, lambda done, total: None)
    assert wrong == 1
