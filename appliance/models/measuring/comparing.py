"""Several models read the same tokens side by side, and are scored as they go. Knows no text and no process."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from appliance.models.measuring.divergence import Scores
from appliance.models.measuring.logits import AS_SERVED, CHUNK_TOKENS, EXACT, Logits
from appliance.models.measuring.tokens import Tokens

Tell = Callable[[int, int], None]
"""How far it is: tokens read, and tokens to read."""


def scores_of(
    reference: Path, artefacts: Sequence[Path], samples: Sequence[Tokens], threads: int, tell: Tell
) -> tuple[int | None, list[Scores]]:
    """Figures of each artefact; or, first, the number of one whose vocabulary is not the reference's.

    Raises RuntimeError in OpenVINO's words.
    """
    exact = Logits(reference, {**EXACT, "INFERENCE_NUM_THREADS": threads})
    models = [Logits(artefact, {**AS_SERVED, "INFERENCE_NUM_THREADS": threads}) for artefact in artefacts]
    scores = [Scores() for _ in models]
    total = sum(len(sample.ids) for sample in samples)
    done = 0
    tell(done, total)
    for sample in samples:
        for model, score in zip((exact, *models), (None, *scores), strict=True):
            model.begin()
            if score is not None:
                score.begin_sample()
        last = max(sample.counted, default=-1) + 1  # what comes after it need not be read
        for begin in range(0, last, CHUNK_TOKENS):
            piece = sample.ids[begin : min(begin + CHUNK_TOKENS, last)]
            counted = np.array([at for at in sample.counted if begin <= at < begin + len(piece)], np.int64)
            next_ids = np.array([sample.ids[at + 1] for at in counted], np.int64)
            theirs = exact.read(piece)
            for number, (model, score) in enumerate(zip(models, scores, strict=True)):
                ours = model.read(piece)
                if ours.shape != theirs.shape:
                    return number, scores
                score.add(theirs[counted - begin], ours[counted - begin], next_ids)
            tell(done + begin + len(piece), total)
        done += len(sample.ids)
        tell(done, total)
    return None, scores
