"""How far NNCF is, told to somebody. Knows NNCF's own bars, and takes their place; knows no algorithm."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nncf.common.logging.track_progress import track

TELL_INTERVAL_S = 0.5

Tell = Callable[[str, int, int], None]
"""Hears a step's name, how many of its pieces are done, and how many there are."""

_NAMES = {
    "Statistics collection": "reading calibration text",
    "Mixed-Precision assignment": "choosing the sensitive matrices",
    "Applying data-aware AWQ": "AWQ",
    "Applying Scale Estimation": "estimating scales",
    "Applying GPTQ": "GPTQ",
    "Applying GPTQ with Scale Estimation": "GPTQ with scale estimation",
    "Applying Weight Compression": "writing integers",
    "Applying Weight Compression with correction of low-rank adapters": "writing integers and adapters",
}


@contextmanager
def progress_told(tell: Tell) -> Iterator[None]:
    """While the block runs, NNCF's loops draw no bars and tell `tell` how far they are."""

    def iterate(bar: Any) -> Iterator[Any]:
        weights = bar.weights
        steps: Iterator[int]
        if weights is None:
            total = int(bar.total if bar.total is not None else len(bar.sequence))
            steps = itertools.repeat(1)
        else:  # as large as the matrices that they stand for
            total = int(sum(weights))
            steps = iter([int(weight) for weight in weights])
        done, told = 0, 0.0
        for item, step in zip(bar.sequence, steps, strict=False):
            if time.monotonic() - told > TELL_INTERVAL_S:
                tell(_NAMES.get(bar.description, bar.description), done, total)
                told = time.monotonic()
            yield item
            done += step

    drawn = track.__iter__
    track.__iter__ = iterate
    try:
        yield
    finally:
        track.__iter__ = drawn
