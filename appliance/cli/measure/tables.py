"""A measurement as tables of text. Computes nothing but which artefacts are on the front."""

from collections.abc import Sequence
from typing import TextIO

from appliance.bench.tables import print_table
from appliance.models.errors import MB
from appliance.models.measuring.figures import Measured, Measurement, Part, pareto_front

COLUMNS = ("#", "artefact", "MB/token", "mean KL", "P99 KL", "top-1", "perplexity", "TTFT ms", "ms/token", "RSS MB")
LEFT_COLUMNS = frozenset({"artefact", "part"})
FRONT = "*"


def print_measurement(measurement: Measurement, out: TextIO) -> None:
    """All figures, then mean KL by language and kind, then what a reader must know."""
    text = measurement.text
    print(f"{text.file}: {text.samples} samples, {text.positions:,} positions", file=out)
    rows = artefact_rows(measurement)
    print_table(COLUMNS, [reference_row(measurement), *rows], out, LEFT_COLUMNS)
    print(f"{FRONT} no other reads less and is nearer to the reference", file=out)
    print("\nmean KL by language and kind", file=out)
    print_table(part_columns(measurement.artefacts), part_rows(measurement.artefacts), out, LEFT_COLUMNS)
    for note in measurement.notes:
        print(f"note: {note}", file=out)


def reference_row(measurement: Measurement) -> list[str]:
    """What the artefacts are compared with, in COLUMNS."""
    perplexity = measurement.artefacts[0].quality.reference_perplexity
    return ["", f"{measurement.reference.name} (reference)", *["-"] * 4, f"{perplexity:.2f}", *["-"] * 3]


def artefact_rows(measurement: Measurement) -> list[list[str]]:
    """One row of COLUMNS for each artefact."""
    front = pareto_front(measurement.artefacts)
    return [_row(number, one, one in front) for number, one in enumerate(measurement.artefacts, start=1)]


def part_columns(artefacts: Sequence[Measured]) -> list[str]:
    """Of `part_rows`: artefacts by their numbers."""
    return ["part", "positions", *(f"#{number}" for number in range(1, len(artefacts) + 1))]


def part_rows(artefacts: Sequence[Measured]) -> list[list[str]]:
    """Mean KL of each part of the text, by artefact."""
    return [_part_row(row) for row in zip(*(one.parts for one in artefacts), strict=True)]


def _part_row(parts: Sequence[Part]) -> list[str]:
    first = parts[0]
    return [
        f"{first.by} {first.name}",
        f"{first.quality.positions:,}",
        *(f"{part.quality.mean_kl:.4f}" for part in parts),
    ]


def _row(number: int, one: Measured, on_front: bool) -> list[str]:
    quality, speed = one.quality, one.speed
    error = "" if quality.mean_kl_error is None else f" ± {quality.mean_kl_error:.4f}"
    return [
        f"{number}{FRONT if on_front else ''}",
        one.name,
        "-" if one.weights_read_bytes is None else f"{one.weights_read_bytes / MB:.1f}",
        f"{quality.mean_kl:.4f}{error}",
        f"{quality.p99_kl:.3f}",
        f"{quality.top1_agreement_ratio:.1%}",
        f"{quality.perplexity:.2f}",
        "-" if speed is None else f"{speed.ttft_ms:.0f}",
        "-" if speed is None else f"{speed.ms_per_token:.1f}",
        "-" if speed is None else f"{speed.rss_bytes / MB:.0f}",
    ]
