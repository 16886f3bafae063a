"""From two models' logits to divergence, agreement and perplexity. Arithmetic only; knows no model and no text.

Reductions are in float64: over a vocabulary of 151,936 sums in float32 would be off in the fourth digit.
"""

import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from appliance.models.measuring.figures import Quality

ROWS = 8  # positions at a time: 5 MB for each array of 151,936 float32

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class _Sample(Struct):
    """Figures of one sample, position by position."""

    kl: list[float] = []
    agrees: list[bool] = []
    nll: list[float] = []
    reference_nll: list[float] = []


class Scores:
    """One artefact's figures, by sample."""

    def __init__(self) -> None:
        self._samples: list[_Sample] = []

    def begin_sample(self) -> None:
        """What is added from now on belongs to another sample."""
        self._samples.append(_Sample())

    def add(self, reference: Floats, artefact: Floats, next_ids: Ids) -> None:
        """Logits [positions, vocabulary] of both, and the token that the text goes on with at each position."""
        sample = self._samples[-1]
        for begin in range(0, len(next_ids), ROWS):
            rows = slice(begin, begin + ROWS)
            ids = next_ids[rows, None]
            ours, theirs = log_softmax(artefact[rows]), log_softmax(reference[rows])
            sample.kl += divergence(theirs, ours).tolist()
            sample.agrees += (theirs.argmax(1) == ours.argmax(1)).tolist()
            sample.nll += (-np.take_along_axis(ours, ids, 1)[:, 0]).tolist()
            sample.reference_nll += (-np.take_along_axis(theirs, ids, 1)[:, 0]).tolist()

    def quality(self, numbers: Sequence[int]) -> Quality:
        """Over all positions of these samples together, of which there is at least one."""
        samples = [self._samples[number] for number in numbers]
        by_sample = [np.array(sample.kl, np.float64) for sample in samples]
        kl = np.concatenate(by_sample)
        return Quality(
            positions=kl.size,
            mean_kl=float(kl.mean()),
            mean_kl_error=standard_error(by_sample),
            p99_kl=float(np.percentile(kl, 99)),
            top1_agreement_ratio=_mean(sample.agrees for sample in samples),
            perplexity=math.exp(_mean(sample.nll for sample in samples)),
            reference_perplexity=math.exp(_mean(sample.reference_nll for sample in samples)),
        )


def log_softmax(logits: Floats) -> Floats:
    """Natural logarithms of the probabilities, row by row."""
    shifted = logits - logits.max(1, keepdims=True)
    totals = np.exp(shifted).sum(1, keepdims=True, dtype=np.float64)
    normal: Floats = (shifted - np.log(totals)).astype(np.float32)
    return normal


def divergence(reference: Floats, artefact: Floats) -> npt.NDArray[np.float64]:
    """KL(reference ‖ artefact) of each row of log-probabilities, nats, at least 0: what is less is rounding."""
    terms = np.exp(reference) * (reference - artefact)
    found: npt.NDArray[np.float64] = np.maximum(terms.sum(1, dtype=np.float64), 0.0)
    return found


def standard_error(samples: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """Of the mean over all positions, when samples were drawn, not positions: those of one text are alike.

    None for fewer than two samples. The usual estimate for a ratio of sums over clusters.
    """
    if len(samples) < 2:
        return None
    positions = sum(sample.size for sample in samples)
    mean = sum(float(sample.sum()) for sample in samples) / positions
    residuals = sum((float(sample.sum()) - sample.size * mean) ** 2 for sample in samples)
    return math.sqrt(residuals * len(samples) / (len(samples) - 1)) / positions


def _mean(samples: Iterable[Sequence[float]]) -> float:
    return statistics.fmean(value for sample in samples for value in sample)
