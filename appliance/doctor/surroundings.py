"""What several checks want to know, found out once: settings, units, the daemon's own word. Judges nothing."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.config import Effective, Settings, load
from appliance.config.paths import BENCHMARKS_NAME, SYSTEM_STATE, TUNING_NAME, config_candidates, state_directory
from appliance.doctor.asking import Ask, Said, ask, get
from appliance.errors import ConfigError
from appliance.models.store import Store

SERVICE = "appliance.service"
SOCKET = "appliance.socket"
TIMER = "appliance-bench.timer"
UNITS = (SERVICE, SOCKET, TIMER, "appliance-model-check.service", "appliance-bench.service")
PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainStatus,NRestarts,MainPID,StatusText,MemoryMax,"
    "MemoryHigh,DropInPaths"
)
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 # told apart, not bound


class Surroundings(Struct, frozen=True, kw_only=True):
    """The host as the checks see it."""

    root: Path
    """Where proc, sys, run and etc are looked for."""
    effective: Effective
    """The settings in force; the defaults where they can't be read."""
    settings_error: str | None
    """What is wrong with the settings."""
    settings_hidden: bool
    """Whether that is only because whoever asks may not read them."""
    state: Path
    """The directory of what the appliance keeps."""
    units: Mapping[str, Mapping[str, str]] | None
    """Properties of those of UNITS that are known, by name; None without systemd."""
    status: Mapping[str, Any] | None
    """What /v1/status says; None where nobody answers."""
    no_status: str
    """Why not, in words."""
    ask: Ask

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self.effective.settings

    @property
    def store(self) -> Store:
        """The model store."""
        models = self.settings.models
        directory = Path(models.directory).expanduser() if models.directory else self.state / "models"
        return Store(directory, max_bytes=models.max_store_bytes)

    @property
    def tuning_file(self) -> Path:
        """What `appliance tune` found."""
        return self.state / TUNING_NAME

    @property
    def benchmarks(self) -> Path:
        """What `appliance bench --self` found."""
        return self.state / BENCHMARKS_NAME

    @property
    def address(self) -> tuple[str, int]:
        """Where the daemon is asked: an address of this host, and the port."""
        server = self.settings.server
        return LOCAL.get(server.host, server.host), server.port

    @property
    def service(self) -> Mapping[str, str]:
        """Properties of the unit; empty where it is not installed."""
        return (self.units or {}).get(SERVICE, {})

    def of_status(self, *names: str) -> Any:
        """What lies below `names` in the status; None where there is none."""
        found: Any = self.status
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


def look(config: Path | None, *, root: Path = Path("/"), ask: Ask = ask) -> Surroundings:
    """What is here. `root`: where files of the kernel are looked for; `ask`: runs programs."""
    effective, problem, hidden = _settings(config)
    units = _units(ask)
    settings = effective.settings
    host = LOCAL.get(settings.server.host, settings.server.host)
    status, why = _status(host, settings.server.port, units)
    return Surroundings(
        root=root,
        effective=effective,
        settings_error=problem,
        settings_hidden=hidden,
        state=_state(root),
        units=units,
        status=status,
        no_status=why,
        ask=ask,
    )


def _settings(config: Path | None) -> tuple[Effective, str | None, bool]:
    try:
        return load(config), None, False
    except ConfigError as error:
        files = [config] if config else config_candidates()
        hidden = any(_hidden(file) for file in files)
        file = next((file for file in files if hidden or file.is_file()), None)
        return Effective(Settings(), {}, file), str(error), hidden


def _hidden(file: Path) -> bool:
    """Whether it is there, or may be, and can't be read by this account."""
    try:
        return file.exists() and not os.access(file, os.R_OK)
    except OSError:
        return True


def _state(root: Path) -> Path:
    """As the service has it, also for an account that may not write there."""
    system = root / SYSTEM_STATE.relative_to("/")
    return system if "STATE_DIRECTORY" not in os.environ and system.is_dir() else state_directory()


def _units(ask: Ask) -> dict[str, dict[str, str]] | None:
    said = ask(["systemctl", "show", *UNITS, "--property", PROPERTIES])
    if said.status != 0:
        return None
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in said.out.split("\n\n")
    ]
    return {
        block["Id"]: block for block in blocks if block.get("LoadState") not in (None, "not-found") and "Id" in block
    }


def _status(
    host: str, port: int, units: Mapping[str, Mapping[str, str]] | None
) -> tuple[Mapping[str, Any] | None, str]:
    """What the daemon says, and why not."""
    if port == 0:
        return None, "server.port = 0: only its log tells the port that it took"
    units = units or {}
    waiting = units.get(SOCKET, {}).get("ActiveState") == "active"
    if waiting and units.get(SERVICE, {}).get("ActiveState") in ("inactive", "failed"):
        return None, f"{SOCKET} listens, and starts the service at the first connection"  # not by this one
    said = get(host, port, "/v1/status")
    status = _decoded(said)
    if status is not None:
        return status, ""
    if said.problem is not None:
        return None, said.problem
    return None, f"what answers is no appliance (HTTP {said.status})"


def _decoded(said: Said) -> Mapping[str, Any] | None:
    if said.status != 200:
        return None
    try:
        status = msgspec.json.decode(said.out, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
    return status if "ready" in status and "engine" in status else None
