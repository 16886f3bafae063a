"""Records of measurements that never were, for tests of what reads them."""

from pathlib import Path

from appliance.observability.self_benchmark import Figures, Fingerprint, SelfBenchmark, Verdict, encode_record

FINGERPRINT = Fingerprint(
    cpu_model="Intel(R) N100",
    cores_usable=4,
    isa_cap="",
    appliance="0.1.0",
    engine={"openvino": "2026.4.1"},
    pipeline="continuous_batching",
    model="tiny",
    digest="ab" * 32,
)


def measured(
    day: int,
    tokens_per_s: float = 20.0,
    *,
    ttft_ms: float = 400.0,
    fingerprint: Fingerprint = FINGERPRINT,
    verdict: Verdict | None = None,
) -> SelfBenchmark:
    """A record of the night before 2026-DAY, by the day of the year."""
    return SelfBenchmark(
        at=f"2026-{1 + day // 28:02}-{1 + day % 28:02}T03:30:00+00:00",
        took_s=30.0,
        fingerprint=fingerprint,
        figures=Figures(tokens_per_s=tokens_per_s, ttft_ms=ttft_ms),
        requests=5,
        tokens=320,
        throttled=0,
        load_average=0.1,
        engine_settings={"threads": 0},
        verdict=verdict or Verdict(),
    )


def write_history(directory: Path, *records: SelfBenchmark) -> None:
    """All of `records` as files in `directory`, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for record in records:
        (directory / record.file_name).write_bytes(encode_record(record))
