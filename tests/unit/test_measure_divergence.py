"""The arithmetic of a measurement, against cases worked out by hand."""

import math

import numpy as np
import pytest

from appliance.models.measuring.divergence import ROWS, Floats, Scores, divergence, log_softmax, standard_error
from appliance.models.measuring.figures import Quality


def logits(*rows: list[float]) -> Floats:
    """Logits whose probabilities are the given ones."""
    return np.log(np.array(rows, np.float32))


def quality(reference: Floats, artefact: Floats, next_ids: list[int]) -> Quality:
    scores = Scores()
    scores.begin_sample()
    scores.add(reference, artefact, np.array(next_ids))
    return scores.quality([0])


def test_probabilities_come_back_whatever_is_added_to_the_logits() -> None:
    given = logits([0.5, 0.25, 0.25], [0.1, 0.2, 0.7])
    np.testing.assert_allclose(np.exp(log_softmax(given + np.array([[1000.0], [-1000.0]], np.float32))).sum(1), 1, 1e-4)
    np.testing.assert_allclose(log_softmax(given), given, rtol=1e-5)


def test_a_large_vocabulary_is_summed_precisely() -> None:
    uniform = np.zeros((1, 151_936), np.float32)
    assert log_softmax(uniform)[0, 7] == pytest.approx(-math.log(151_936), rel=1e-7)


def test_equal_models_do_not_differ_at_all() -> None:
    given = np.random.default_rng(1).normal(0, 5, (40, 1000)).astype(np.float32)
    found = quality(given, given.copy(), [3] * 40)
    assert (found.mean_kl, found.p99_kl, found.top1_agreement_ratio) == (0.0, 0.0, 1.0)
    assert found.perplexity == found.reference_perplexity


def test_divergence_is_that_of_the_textbook() -> None:
    found = divergence(log_softmax(logits([0.5, 0.5])), log_softmax(logits([0.25, 0.75])))
    assert found[0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)
    back = divergence(log_softmax(logits([0.25, 0.75])), log_softmax(logits([0.5, 0.5])))
    assert back[0] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-6)


def test_rounding_makes_no_divergence_negative() -> None:
    given = np.random.default_rng(2).normal(0, 5, (100, 5000)).astype(np.float32)
    nearly = given * np.float32(1 + 1e-7)
    assert divergence(log_softmax(given), log_softmax(nearly)).min() >= 0


def test_p99_lies_between_the_largest_two_of_a_hundred() -> None:
    reference = np.repeat(logits([0.5, 0.5]), 100, 0)
    artefact = reference.copy()
    artefact[17] = logits([0.25, 0.75])[0]
    found = quality(reference, artefact, [0] * 100)
    largest = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert found.p99_kl == pytest.approx(0.01 * largest, rel=1e-4)  # place 98.01 of 0 to 99: a hundredth of the way
    assert found.mean_kl == pytest.approx(largest / 100, rel=1e-6)
    assert found.positions == 100


def test_perplexity_is_that_of_the_texts_own_tokens() -> None:
    reference = logits([0.25, 0.75], [0.5, 0.5])
    artefact = logits([0.5, 0.5], [0.125, 0.875])
    found = quality(reference, artefact, [0, 0])
    assert found.perplexity == pytest.approx(math.sqrt(2 * 8), rel=1e-6)
    assert found.reference_perplexity == pytest.approx(math.sqrt(4 * 2), rel=1e-6)


def test_an_even_guess_among_four_has_perplexity_four() -> None:
    even = np.zeros((ROWS * 2 + 1, 4), np.float32)
    assert quality(even, even, [2] * len(even)).perplexity == pytest.approx(4)


def test_agreement_counts_positions_where_both_find_the_same_token_likeliest() -> None:
    reference = logits([0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9])
    artefact = logits([0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8])
    assert quality(reference, artefact, [0, 0, 0, 0]).top1_agreement_ratio == 0.75


def test_each_position_counts_alike_whatever_its_sample() -> None:
    scores = Scores()
    one, other = logits([0.5, 0.5]), logits([0.25, 0.75])
    for artefact, count in ((one, 3), (other, 1)):
        scores.begin_sample()
        scores.add(np.repeat(one, count, 0), np.repeat(artefact, count, 0), np.zeros(count, np.int64))
    whole, part = scores.quality([0, 1]), scores.quality([1])
    assert whole.mean_kl == pytest.approx(part.mean_kl / 4)
    assert (whole.positions, part.positions, part.mean_kl_error) == (4, 1, None)


def test_the_error_is_that_between_samples() -> None:
    # Samples of equal length: the usual error of the mean of their means, here 1 and 3.
    alike = [np.array([1.0, 1.0]), np.array([3.0, 3.0])]
    assert standard_error(alike) == pytest.approx(np.std([1, 3], ddof=1) / math.sqrt(2))
    assert standard_error([np.array([1.0]), np.array([1.0, 1.0])]) == 0
    assert standard_error(alike[:1]) is None
