"""Measurements made for tests."""

from appliance.models.measuring.asking import Answer
from appliance.models.measuring.figures import Measured, Measurement, Part, Quality, ReferenceRecord, Speed, TextRecord
from appliance.models.measuring.speed import summary


def quality(mean_kl: float) -> Quality:
    """Of a hundred positions."""
    return Quality(
        positions=100, mean_kl=mean_kl, mean_kl_error=mean_kl / 10, p99_kl=5 * mean_kl, top1_agreement_ratio=0.8,
        perplexity=11.0, reference_perplexity=10.0,
    )  # fmt: skip


def measured(name: str, read_mb: float | None, mean_kl: float, speed: Speed | None = None) -> Measured:
    """An artefact that reads `read_mb` MB a token."""
    return Measured(
        name=name,
        source="ir" if speed else "gguf",
        path=f"/models/{name}",
        weights="INT4",
        weights_read_bytes=None if read_mb is None else int(read_mb * 1e6),
        quality=quality(mean_kl),
        parts=[
            Part(by="language", name="en", quality=quality(mean_kl)),
            Part(by="kind", name="chat", quality=quality(2 * mean_kl)),
        ],
        speed=speed,
    )


SPEED = summary([Answer(100.0, 20.0, 250, 32), Answer(140.0, 22.0, 252, 32), Answer(120.0, 27.0, 251, 32)], 900_000_000)


def measurement(*artefacts: Measured, notes: tuple[str, ...] = ()) -> Measurement:
    """Of `artefacts`, by default three of which one is on no front."""
    return Measurement(
        created_at="2026-11-22T00:00:00+00:00",
        reference=ReferenceRecord(name="f16", source="ir", path="/models/f16", weights="F16"),
        text=TextRecord(file="held-out.jsonl", sha256="ab" * 32, samples=10, positions=100, cut=0),
        artefacts=artefacts
        or (measured("small", 260, 0.12, SPEED), measured("worse", 300, 0.17, SPEED), measured("near", 330, 0.09)),
        how={"reference": "in f32"},
        notes=notes,
    )
