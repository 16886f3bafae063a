"""Hosts made up for tests of what the doctor says of them: files below a root, and programs that never ran."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.config import Effective, Settings
from appliance.doctor.asking import Ask, Said
from appliance.doctor.findings import Finding
from appliance.doctor.surroundings import LOCAL, SERVICE, Surroundings

N100_FLAGS = "fpu sse4_2 avx avx2 fma f16c avx_vnni"
HIDDEN = Said(status=1, err="System has not been booted with systemd as init system (PID 1). Can't operate.\n")
ACCOUNT = {SERVICE: {"ActiveState": "active", "User": "appliance", "Group": "appliance"}}
"""Units of a host where the service runs as an account of its own."""


def write(root: Path, files: Mapping[str, object]) -> Path:
    """Files of a made-up host, by path below `root`."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return root


class Programs:
    """What made-up programs say, by the beginning of their command; the others are not installed."""

    def __init__(self, **answers: Said | str) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> Said:
        self.asked.append(list(command))
        answer = self.answers.get(command[0])
        if answer is None:
            return Said(problem=f"{command[0]} can't be run: No such file or directory")
        return Said(status=0, out=answer) if isinstance(answer, str) else answer


def surroundings(
    root: Path,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    units: Mapping[str, Mapping[str, str]] | None = None,
    status: Mapping[str, Any] | None = None,
    ask: Ask | None = None,
    **changes: Any,
) -> Surroundings:
    """A made-up host whose state directory is ROOT/state; nothing runs on it but what is said here."""
    wanted = msgspec.convert(settings or {}, Settings)
    origins = {f"{section}.{key}": "a test" for section, keys in (settings or {}).items() for key in keys}
    found = Surroundings(
        root=root,
        effective=Effective(wanted, origins, None),
        settings_error=None,
        settings_hidden=False,
        state=root / "state",
        units=units,
        status=status,
        no_status="" if status else "Connection refused",
        address=(LOCAL.get(wanted.server.host, wanted.server.host), wanted.server.port),
        ask=ask or Programs(),
    )
    return msgspec.structs.replace(found, **changes)


def status(**changes: Any) -> dict[str, Any]:
    """What /v1/status of a daemon says that is well; `engine` is changed key by key."""
    engine = {
        "state": "ready", "pipeline": "continuous_batching", "pid": 4711, "versions": {}, "isa_cap": None,
        "losses": 0, "last_loss": None, "last_recycle_failure": None, "tuned": None,
    }  # fmt: skip
    return {
        "version": "0.1.0",
        "ready": True,
        "reason": None,
        "uptime_s": 7200.0,
        "model": {"id": "tiny", "digest": "ab" * 32},
        "requests": {"running": 1, "waiting": 2, "detached": 0},
        "rss_bytes": {"front": 50 << 20, "engine": 700 << 20},
        **changes,
        "engine": engine | changes.get("engine", {}),
    }


def said(finding: Finding, found: str, text: str) -> bool:
    """Whether it is of that status and says so; it has a remedy where it is not green."""
    assert bool(finding.remedy) == (found != "green"), finding
    assert (finding.status, text in finding.finding) == (found, True), finding
    return True
