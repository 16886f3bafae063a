"""What a measurement finds, as values and as a file. Measures nothing, and knows no engine and no terminal."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

SCHEMA = "appliance-measure"
SCHEMA_VERSION = 1


class Quality(Struct, frozen=True, kw_only=True):
    """Next-token distributions of an artefact beside the reference's, over some positions of the text."""

    positions: int
    mean_kl: float
    """Mean of KL(reference ‖ artefact), nats a token."""
    mean_kl_error: float | None
    """Standard error of mean_kl, where samples are independent draws; None for a single sample."""
    p99_kl: float
    """99th percentile of the same, linear between the two positions beside it."""
    top1_agreement_ratio: float
    """Share of positions where both find the same token likeliest."""
    perplexity: float
    """exp of the mean negative log-likelihood of the text's own next token under the artefact."""
    reference_perplexity: float
    """The same under the reference."""


class Part(Struct, frozen=True, kw_only=True):
    """The positions of one kind, or of one language."""

    by: str
    """"kind" or "language"."""
    name: str
    quality: Quality


class Speed(Struct, frozen=True, kw_only=True):
    """One stream on this machine, through the engine's worker."""

    ttft_ms: float
    """Median, from the request to the first token."""
    ms_per_token: float
    """Median of the answers' mean times between tokens after the first."""
    rss_bytes: int
    """Of the worker after its answers: the largest of all rounds."""
    prompt_tokens: int
    """Median."""
    answers: int
    """How many count."""


class Measured(Struct, frozen=True, kw_only=True):
    """One artefact."""

    name: str
    """As people named it, shortened where that is clear."""
    source: str
    """"installed", "ir" or "gguf"."""
    path: str
    digest: str | None = None
    """Of an installed model's content."""
    weights: str
    """What the weights are, for people."""
    weights_read_bytes: int | None
    """Bytes of weights that one token reads; None where the graph does not tell."""
    quality: Quality
    parts: Sequence[Part]
    speed: Speed | None = None
    """None where it was not measured, as of a GGUF file, which the engine serves in no such form."""


class ReferenceRecord(Struct, frozen=True, kw_only=True):
    """What the artefacts were compared with."""

    name: str
    source: str
    path: str
    weights: str
    dequantized_from: Sequence[str] = ()
    """Integer types that the reference's weights come from: it is then no better than those."""


class TextRecord(Struct, frozen=True, kw_only=True):
    """The held-out text."""

    file: str
    sha256: str
    samples: int
    positions: int
    cut: int
    """Samples of which only the beginning was measured."""


class Measurement(Struct, frozen=True, kw_only=True):
    """One run of `appliance models measure`."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    created_at: str
    """UTC, ISO 8601."""
    reference: ReferenceRecord
    text: TextRecord
    artefacts: Sequence[Measured]
    how: dict[str, str]
    """Settings of the arithmetic, and of the speed rounds, by name."""
    notes: Sequence[str] = ()
    """What a reader must know to take the figures for what they are."""


def encode_measurement(measurement: Measurement, host: object = None) -> bytes:
    """The text of a measurement's file; `host`: what is known of the machine."""
    content = {**msgspec.to_builtins(measurement), "host": msgspec.to_builtins(host)}
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def pareto_front(artefacts: Iterable[Measured]) -> list[Measured]:
    """Those for which no other reads as little and is as near to the reference, and better in one; least bytes first.

    Artefacts whose bytes are not known are on no front.
    """
    front: list[Measured] = []
    known = [
        (one.weights_read_bytes, one.quality.mean_kl, one) for one in artefacts if one.weights_read_bytes is not None
    ]
    for _, kl, one in sorted(known, key=lambda entry: entry[:2]):
        if not front or kl < front[-1].quality.mean_kl:
            front.append(one)
    return front
