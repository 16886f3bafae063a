"""STATE/tuning.json: what `appliance tune` chose on this host, and why. Measures nothing, applies nothing."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from appliance.config import EngineSettings
from appliance.models.durable import FILE_MODE, open_replacement
from appliance.models.manifest import DIGEST_NAME_LENGTH, installed_versions
from appliance.observability.host import cpu_info

TUNING_FORMAT = 1
FILE_MAX_BYTES = 1 << 20
MOST_RECORDS = 32  # the oldest go first
MOST_REASON = 400  # characters

Profile = Literal["interactive", "throughput"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
TUNABLE = (
    "threads",
    "cpu_pinning",
    "max_num_batched_tokens",
    "dynamic_quantization_group_size",
    "kv_cache_precision",
    "precision",
)
"""Settings of the section engine that may be chosen by measurement; none of them changes what clients may ask for."""

Value = int | str
Milliseconds = Annotated[float, Meta(ge=0)]


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a choice holds: what was measured there says nothing of anything else."""

    cpu_model: str
    cores_usable: int
    """Logical CPUs that the process might use."""
    isa_cap: str
    """ONEDNN_MAX_CPU_ISA; empty where it was not set."""
    openvino: str
    openvino_genai: str
    pipeline: str
    model_digest: str
    """The beginning that names the model's directory."""


class Figures(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one worker brought."""

    ttft_ms: Milliseconds
    """Median, from the moment that all questions of the profile were sent."""
    ms_per_token: Milliseconds
    """Median of one stream's time between tokens."""
    tokens_per_s: Annotated[float, Meta(ge=0)]
    """Of all streams together, their prompts' time included."""


class Tried(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker of the search."""

    changed: dict[str, Value]
    """Settings that were not as without tuning."""
    figures: Figures | None
    error: str | None = None
    """Why there are no figures."""


class Evidence(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the choice is what it is."""

    tried: tuple[Tried, ...]
    left_out: tuple[str, ...]
    """`setting = value`, for which there was no time."""
    default: tuple[Figures, ...]
    """Of the comparison at the end, without tuning; empty where nothing was worth one."""
    best: tuple[Figures, ...]
    """Of the best of the search, by turns with the former."""
    gain_ratio: float | None
    """Part by which the best's cost lay below the default's, in that comparison."""
    noise_ratio: float | None
    """What that had to exceed."""
    why: str


class Tuned(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One choice."""

    key: Key
    model: str
    """ID@DIGEST, for people."""
    profile: Profile
    settings: dict[str, Value]
    """By name, those that are not to stay at the default; empty where the defaults are best."""
    at: str
    """UTC, ISO 8601."""
    took_s: float
    evidence: Evidence


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tuned: tuple[Tuned, ...]
    format: int = TUNING_FORMAT


class _Format(Struct):
    format: int


def host_key(pipeline: str, model_digest: str) -> Key:
    """The key of this process on this host. Reads files."""
    versions = installed_versions()
    return Key(
        cpu_model=cpu_info().get("model name", ""),
        cores_usable=len(os.sched_getaffinity(0)),
        isa_cap=os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        openvino=versions.openvino if versions else "",
        openvino_genai=versions.openvino_genai if versions else "",
        pipeline=pipeline,
        model_digest=model_digest[:DIGEST_NAME_LENGTH],
    )


def read_tuning(file: Path, tell: Callable[[str], None]) -> tuple[Tuned, ...]:
    """What is in `file`, the oldest first; nothing where there is none. One that is of no use is told in one line."""
    try:
        with file.open("rb") as content:
            text = content.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        tell(f"{file} can't be read ({error.strerror}), left aside")
        return ()
    try:
        return _decoded(text)
    except (ValueError, RecursionError) as error:  # msgspec's and Unicode's are ValueErrors
        reason = str(error).splitlines()[0][:MOST_REASON]
        tell(f"{file} is of no use ({reason}), left aside; run: appliance tune")
        return ()


def _decoded(text: bytes) -> tuple[Tuned, ...]:
    """Raises ValueError, RecursionError."""
    if len(text) > FILE_MAX_BYTES:
        raise ValueError(f"larger than {FILE_MAX_BYTES} bytes")
    found = msgspec.json.decode(text, type=_Format).format
    if found != TUNING_FORMAT:
        raise ValueError(f"format {found}, this appliance knows {TUNING_FORMAT}")
    records = msgspec.json.decode(text, type=_File).tuned
    for record in records:
        for name in record.settings:
            if name not in TUNABLE:
                raise ValueError(f"engine.{name} is no setting to be tuned")
        msgspec.convert(record.settings, EngineSettings)
    return records


def write_tuning(file: Path, record: Tuned, before: Sequence[Tuned]) -> None:
    """`record` in place of the one for the same key, beside the others of `before`. Raises OSError.

    The directory must be there; whoever may run the daemon can read the file.
    """
    records = (*(other for other in before if other.key != record.key), record)[-MOST_RECORDS:]
    with open_replacement(file) as content:
        content.write(msgspec.json.format(msgspec.json.encode(_File(tuned=records)), indent=2) + b"\n")
        os.fchmod(content.fileno(), FILE_MODE)
        if os.geteuid() == 0:
            owner = file.parent.stat()
            os.fchown(content.fileno(), owner.st_uid, owner.st_gid)
