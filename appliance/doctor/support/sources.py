"""What goes into the archive and where it comes from, each with a reason when it can't be had. Redacts nothing."""

import os
import platform
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.doctor.asking import Said, get
from appliance.doctor.findings import Report
from appliance.doctor.reading import text
from appliance.doctor.surroundings import UNITS, Surroundings
from appliance.models.slots import SLOTS_NAME
from appliance.observability.self_benchmark import history_names

JOURNAL_LINES = 2000
KERNEL_LINES = 300
BENCHMARKS = 14  # the last two weeks of nights
# As the service logs them; ids, counts and times, never content.
FIELDS = (
    "MESSAGE,PRIORITY,MESSAGE_ID,REQUEST_ID,CLIENT,MODEL,TTFT_MS,TPOT_MS,PROMPT_TOKENS,COMPLETION_TOKENS,OUTCOME,"
    "CANCEL_REASON,CODE,_SYSTEMD_UNIT,_PID"
)
VARIABLES = ("APPLIANCE__", "ONEDNN_", "OMP_", "OPENVINO", "OV_", "LD_", "MALLOC_", "PYTHON", "LANG", "LC_", "TZ",
             "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_", "HTTP_PROXY", "HTTPS_PROXY", "HF_")  # fmt: skip
KERNEL_FILES = ("proc/meminfo", "proc/loadavg", "proc/vmstat", "proc/pressure/memory", "proc/pressure/cpu",
                "proc/pressure/io", "proc/mounts", "proc/swaps", "etc/os-release", "etc/debian_version")  # fmt: skip


class Missing(Exception):
    """It can't be had; the text says why."""


class Content(Struct, frozen=True):
    """What a source gave: a text, or a tree to be written as JSON."""

    value: Any
    cut: bool = False


class Source(Struct, frozen=True):
    """One file of the archive to be."""

    name: str
    what: str
    read: Callable[[], Content]
    """Raises Missing, OSError."""


def sources(here: Surroundings, report: Report) -> Iterator[Source]:
    """All of them, in the order of their worth: whatever there is no more time or room for comes last."""
    yield Source("doctor.json", "appliance doctor --json", lambda: Content(msgspec.to_builtins(report)))
    yield Source("settings.json", "settings in force, and where each was said", lambda: _settings(here))
    yield Source("settings-file.json", "the settings file, as it was read", lambda: _settings_file(here))
    yield Source("versions.json", "kernel, Python and packages", _versions)
    yield Source("status.json", "/v1/status of the daemon", lambda: _status(here))
    yield Source("metrics.txt", "/metrics of the daemon", lambda: _metrics(here))
    yield from _systemd(here)
    yield Source(
        "journal.txt",
        f"the last {JOURNAL_LINES} lines of the units",
        lambda: _said(here, _journal("short-iso-precise")),
    )
    yield Source(
        "slots.json", "which model is current, previous, bad", lambda: _file(here.store.directory / SLOTS_NAME)
    )
    yield Source("models.json", "manifests of the installed models", lambda: _models(here))
    yield Source("tuning.json", "what appliance tune chose", lambda: _file(here.tuning_file))
    yield Source("benchmarks.json", "the last self-benchmarks", lambda: _benchmarks(here.benchmarks))
    yield Source("environment.json", "variables of this command that matter", lambda: Content(_environment()))
    yield Source("cpuinfo.txt", "/proc/cpuinfo, first CPU", lambda: _cpuinfo(here.root))
    for name in KERNEL_FILES:
        yield Source(f"host/{name.replace('/', '-')}", f"/{name}", partial(_file, here.root / name))
    yield Source("kernel.txt", "the kernel's warnings", lambda: _said(here, _kernel()))
    yield Source("journal.jsonl", "the same lines, with their fields",
                 lambda: _said(here, [*_journal("json"), "--output-fields", FIELDS]))  # fmt: skip


def _systemd(here: Surroundings) -> Iterator[Source]:
    for name, what, command in (
        ("units/cat.txt", "unit files with their drop-ins", ["cat", *sorted(here.units or UNITS)]),
        ("units/show.txt", "properties of the service", ["show", UNITS[0]]),
        ("units/status.txt", "systemctl status", ["status", "--full", "--lines", "0", *sorted(here.units or UNITS)]),
        ("units/timers.txt", "when timers run next", ["list-timers", "--all", "appliance*"]),
    ):
        yield Source(name, what, partial(_unit, here, command))


def _unit(here: Surroundings, command: list[str]) -> Content:
    if here.units is None:
        raise Missing("systemd does not run here")
    return _said(here, ["systemctl", *command, "--no-pager"])


def _said(here: Surroundings, command: list[str]) -> Content:
    if command[0] == "journalctl" and here.units is None:
        raise Missing("systemd does not run here")
    said: Said = here.ask(command)
    if not said.out.strip():
        silent = f"{command[0]} said nothing: it is empty, or this account may not read it; run it as root"
        raise Missing(said.problem or said.err.strip() or silent)
    return Content(said.out, said.cut)


def _journal(output: str) -> list[str]:
    units = [argument for unit in UNITS for argument in ("--unit", unit)]
    return ["journalctl", *units, "--lines", str(JOURNAL_LINES), "--output", output, "--no-pager"]


def _kernel() -> list[str]:
    return ["journalctl", "--dmesg", "--priority", "warning", "--lines", str(KERNEL_LINES), "--no-pager"]


def _settings(here: Surroundings) -> Content:
    if here.settings_error is not None:
        raise Missing(here.settings_error)
    effective = here.effective
    return Content(
        {
            "file": None if effective.file is None else str(effective.file),
            "settings": msgspec.to_builtins(effective.settings),
            "origins": effective.origins,
        }
    )


def _settings_file(here: Surroundings) -> Content:
    """Right or wrong as it is: where it is wrong it is wanted most. Raises OSError."""
    file = here.effective.file
    if file is None:
        raise Missing("there is none")
    try:
        return Content(tomllib.loads(file.read_text("utf-8")))
    except (ValueError, RecursionError) as error:  # tomllib's and Unicode's are ValueErrors
        raise Missing(f"{file} is not valid TOML: {error}") from None


def _status(here: Surroundings) -> Content:
    if here.status is None:
        raise Missing(here.no_status)
    return Content(here.status)


def _metrics(here: Surroundings) -> Content:
    if here.status is None:
        raise Missing(here.no_status)
    said = get(*here.address, "/metrics", tls=here.tls)
    if said.status != 200:
        raise Missing(said.problem or f"HTTP {said.status}")
    return Content(said.out, said.cut)


def _models(here: Surroundings) -> Content:
    entries = here.store.entries()
    if not entries:
        raise Missing(f"no model is installed in {here.store.directory}")
    return Content(
        [{"directory": str(e.directory), "size_bytes": e.size_bytes, "manifest": _manifest(e)} for e in entries]
    )


def _manifest(entry: object) -> object:
    manifest = getattr(entry, "manifest", None)
    return str(getattr(entry, "error", "")) if manifest is None else msgspec.to_builtins(manifest)


def _benchmarks(directory: Path) -> Content:
    names = history_names(directory)[-BENCHMARKS:]
    if not names:
        raise Missing("never measured: appliance bench --self")
    return Content({name: text(directory / name) for name in names})


def _versions() -> Content:
    packages = {found.name: found.version for found in metadata.distributions() if found.name}
    return Content(
        {
            "uname": list(platform.uname()),
            "python": platform.python_version(),
            "libc": " ".join(platform.libc_ver()),
            "packages": dict(sorted(packages.items())),
        }
    )


def _environment() -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name.upper().startswith(VARIABLES)}


def _cpuinfo(root: Path) -> Content:
    found = text(root / "proc/cpuinfo")
    if found is None:
        raise Missing("/proc/cpuinfo can't be read")
    return Content(found.split("\n\n")[0] + "\n")


def _file(path: Path) -> Content:
    """Raises OSError."""
    with path.open("rb") as content:
        return Content(content.read(1 << 20).decode("utf-8", "replace"))
