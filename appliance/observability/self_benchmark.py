"""What this host measured of itself, night after night: records, and what they say of the newest. Measures nothing."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

SCHEMA = "appliance-self-benchmark"
SCHEMA_VERSION = 1
RECORDS_MAX = 90  # a quarter of a year of nights
FILE_MAX_BYTES = 1 << 16
LEAST_BASELINE = 3  # records: the median of fewer is one night's luck
REGRESSION_RATIO = 0.8  # of the baseline; what a neighbour of the host or its room's temperature does stays above


class Fingerprint(Struct, frozen=True, kw_only=True):
    """What was measured on what: only records with the same can be compared."""

    cpu_model: str
    cores_usable: int
    isa_cap: str
    """ONEDNN_MAX_CPU_ISA of the daemon; empty where it was not set."""
    appliance: str
    engine: dict[str, str]
    """Releases of what runs the model, by name."""
    pipeline: str
    model: str
    digest: str


class Figures(Struct, frozen=True, kw_only=True):
    """Medians of a single stream."""

    tokens_per_s: float
    """After the first token."""
    ttft_ms: float
    """From the question to the first text."""


class Ratios(Struct, frozen=True, kw_only=True):
    """Speed over what it is compared with; below 1 is slower."""

    tokens_per_s: float
    first_token: float
    """Earlier time to the first token ÷ the one now."""

    @property
    def worst(self) -> float:
        """The lesser of the two."""
        return min(self.tokens_per_s, self.first_token)


class Verdict(Struct, frozen=True, kw_only=True):
    """How a measurement compares with those before it on this host."""

    baseline: Figures | None = None
    """Medians of earlier records with the same fingerprint, but for regressions; None below LEAST_BASELINE of them."""
    of: int = 0
    """How many there are."""
    ratios: Ratios | None = None
    """Over the baseline."""
    regression: bool = False
    """Whether one of them is below REGRESSION_RATIO."""
    changed: tuple[str, ...] = ()
    """What of the fingerprint was another before, where there is no baseline with this one yet."""
    since_change: Ratios | None = None
    """Over the last record of the same model id before that change."""


class SelfBenchmark(Struct, frozen=True, kw_only=True):
    """One measurement, as it is kept."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    at: str
    """UTC, ISO 8601, seconds."""
    took_s: float
    fingerprint: Fingerprint
    figures: Figures
    requests: int
    """Answers behind the figures."""
    tokens: int
    throttled: int | None
    """Times that a core was throttled for heat meanwhile; None where the host does not tell."""
    load_average: float
    """Of the minute before it, all that runs on the host."""
    engine_settings: dict[str, Any]
    verdict: Verdict = Verdict()

    @property
    def file_name(self) -> str:
        """Its name in the history; names in order are records in order."""
        return self.at.replace("+00:00", "Z").replace(":", "").replace("-", "") + ".json"


def judge(new: SelfBenchmark, earlier: Sequence[SelfBenchmark]) -> Verdict:
    """What `earlier`, the oldest first, say of `new`.

    Regressions are no part of a baseline: a host that stays slow would become its own measure.
    """
    same = [record for record in earlier if record.fingerprint == new.fingerprint and not record.verdict.regression]
    if len(same) < LEAST_BASELINE:
        before = _last_before_a_change(new, earlier)
        if before is None:
            return Verdict(of=len(same))
        return Verdict(
            of=len(same),
            changed=_differing(before.fingerprint, new.fingerprint),
            since_change=_ratios(new.figures, before.figures),
        )
    baseline = Figures(
        tokens_per_s=median(record.figures.tokens_per_s for record in same),
        ttft_ms=median(record.figures.ttft_ms for record in same),
    )
    ratios = _ratios(new.figures, baseline)
    return Verdict(baseline=baseline, of=len(same), ratios=ratios, regression=ratios.worst < REGRESSION_RATIO)


def encode_record(record: SelfBenchmark) -> bytes:
    """The text of a record's file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def read_history(directory: Path, tell: Callable[[str], None]) -> list[SelfBenchmark]:
    """The newest RECORDS_MAX records in `directory`, the oldest first; nothing where there is none.

    `tell` hears in one line of each file that is of no use. Raises OSError where the directory can't be read.
    """
    records = []
    for name in history_names(directory)[-RECORDS_MAX:]:
        file = directory / name
        try:
            records.append(_read(file))
        except (OSError, ValueError, RecursionError) as error:  # msgspec's and Unicode's are ValueErrors
            tell(f"{file} is of no use ({str(error).splitlines()[0][:200]}), left aside")
    return records


def history_names(directory: Path) -> list[str]:
    """The names of the records' files, the oldest first. Raises OSError, but not where there is no such directory."""
    try:
        return sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(".json"))
    except FileNotFoundError:
        return []


class _Version(Struct):
    schema: str
    schema_version: int


def _read(file: Path) -> SelfBenchmark:
    with file.open("rb") as content:
        text = content.read(FILE_MAX_BYTES)
    found = msgspec.json.decode(text, type=_Version)
    if (found.schema, found.schema_version) != (SCHEMA, SCHEMA_VERSION):
        raise ValueError(f"{found.schema} {found.schema_version}, this appliance knows {SCHEMA} {SCHEMA_VERSION}")
    return msgspec.json.decode(text, type=SelfBenchmark)


def _last_before_a_change(new: SelfBenchmark, earlier: Sequence[SelfBenchmark]) -> SelfBenchmark | None:
    others = (record for record in reversed(earlier) if record.fingerprint.model == new.fingerprint.model)
    return next((record for record in others if record.fingerprint != new.fingerprint), None)


def _ratios(new: Figures, old: Figures) -> Ratios:
    return Ratios(tokens_per_s=new.tokens_per_s / old.tokens_per_s, first_token=old.ttft_ms / new.ttft_ms)


def _differing(one: Fingerprint, other: Fingerprint) -> tuple[str, ...]:
    return tuple(name for name in Fingerprint.__struct_fields__ if getattr(one, name) != getattr(other, name))
