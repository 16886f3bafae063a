"""A measurement as a file: everything that is needed to read it, and to compare it, later. Measures nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.bench.errors import NoResult
from appliance.bench.host import Host
from appliance.bench.roofline import Roofline
from appliance.bench.samples import Level, Sample
from appliance.bench.server import Server
from appliance.bench.workload import Workload

SCHEMA = "appliance-bench"
SCHEMA_VERSION = 1


class Run(Struct, frozen=True, kw_only=True):
    """One level: what was asked, what came of it, and each request."""

    workload: Workload
    warm_up: int
    """Requests of each client before those that count."""
    requests: int | None
    """Of each client that were wanted; None where a duration ended it."""
    duration_s: float | None
    level: Level
    samples: list[Sample]


class Result(Struct, frozen=True, kw_only=True):
    """One measurement of one server."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    created_at: str
    """UTC, ISO 8601."""
    url: str
    same_host: bool
    """Whether the server runs on `host`, which is the machine that measured."""
    host: Host
    server: Server
    seed: int
    runs: list[Run]
    roofline: Roofline

    @property
    def levels(self) -> list[Level]:
        """Of all runs, in the order of measuring."""
        return [run.level for run in self.runs]


class _Version(Struct):
    schema: str
    schema_version: int


def encode_result(result: Result) -> bytes:
    """The text of a result's file."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def read_result(file: Path) -> Result:
    """The result in `file`. Raises NoResult where it can't be read, is something else, or of a later version."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise NoResult(f"{file} can't be read: {error.strerror}; name a file that --json has written") from None
    try:
        found = msgspec.json.decode(text, type=_Version)
        if found.schema != SCHEMA:
            raise NoResult(f"{file} is no result of `appliance bench`; name a file that --json has written")
        if found.schema_version > SCHEMA_VERSION:
            raise NoResult(
                f"{file} has schema version {found.schema_version} of a newer appliance, this one knows "
                f"{SCHEMA_VERSION}; upgrade the appliance"
            )
        return msgspec.json.decode(text, type=Result)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NoResult(
            f"{file} is no result of `appliance bench` ({error}); name a file that --json has written"
        ) from None


def write_file(file: Path, content: bytes) -> None:
    """Replace `file` as a whole: what is there is the old or the new content. Raises OSError."""
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def kinds_of(levels: Sequence[Level]) -> list[str]:
    """The kinds that were measured, in their order."""
    return list(dict.fromkeys(level.kind for level in levels))
