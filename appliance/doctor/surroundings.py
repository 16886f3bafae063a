"""What several checks want to know, found out once: settings, units, the daemon's own word. Judges nothing."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.config import Effective, Settings, load
from appliance.config.paths import BENCHMARKS_NAME, SYSTEM_STATE, TUNING_NAME, config_candidates, state_directory
from appliance.doctor.asking import SILENT, Ask, Said, ask, get
from appliance.doctor.listening import Address, Listener, asked_for, inodes_of, listeners
from appliance.doctor.variables import variables_of
from appliance.errors import ConfigError
from appliance.models.store import Store

SERVICE = "appliance.service"
SOCKET = "appliance.socket"
SLICE = "system-appliance.slice"
TIMER = "appliance-bench.timer"
MODEL_CHECK = "appliance-model-check.service"
UNITS = (SERVICE, SOCKET, SLICE, TIMER, MODEL_CHECK, "appliance-bench.service")
OTHERS = "appliance-*"  # instances such as appliance-pull@ID.service, where they were used
PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainStatus,NRestarts,MainPID,StatusText,MemoryMax,"
    "MemoryHigh,DropInPaths,Listen,Environment,EnvironmentFiles,ExecStart,User,Group,IPAddressAllow,IPAddressDeny"
)
REFUSED = os.strerror(errno.ECONNREFUSED)
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
    """Properties of the appliance's units that are known, by name; None without systemd."""
    status: Mapping[str, Any] | None
    """What /v1/status says; None where nobody answers."""
    no_status: str
    """Why not, in words."""
    address: Address
    """Where the daemon answers; where it was looked for, if it does not."""
    tls: bool = False
    """Whether it answers over TLS."""
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
    def service(self) -> Mapping[str, str]:
        """Properties of the unit; empty where it is not installed."""
        return (self.units or {}).get(SERVICE, {})

    @property
    def own_listeners(self) -> tuple[Listener, ...]:
        """Those of the service's process; none where it does not run, or this account may not look."""
        return _own_listeners(self.root, self.service)

    @property
    def socket_addresses(self) -> tuple[Address, ...]:
        """What the socket unit asks for, whether it got it or not."""
        return asked_for((self.units or {}).get(SOCKET, {}).get("Listen", ""))

    def is_active(self, unit: str) -> bool:
        """Whether systemd says so of `unit`."""
        return (self.units or {}).get(unit, {}).get("ActiveState") == "active"

    def of_status(self, *names: str) -> Any:
        """What lies below `names` in the status; None where there is none."""
        found: Any = self.status
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


def look(config: Path | None, *, root: Path = Path("/"), ask: Ask = ask) -> Surroundings:
    """What is here. `root`: where files of the kernel are looked for; `ask`: runs programs."""
    units = _units(ask)
    service = (units or {}).get(SERVICE, {})
    file, environ = (config, None) if config else _told_by(service, root)
    effective, problem, hidden = _settings(file, environ)
    places = _places(effective.settings, units or {}, root)
    status, why, address, tls = _status(places, units or {}, bool(effective.settings.server.tls_certificate_file))
    return Surroundings(
        root=root,
        effective=effective,
        settings_error=problem,
        settings_hidden=hidden,
        state=_state(root),
        units=units,
        status=status,
        no_status=why,
        address=address,
        tls=tls,
        ask=ask,
    )


def _told_by(service: Mapping[str, str], root: Path) -> tuple[Path | None, dict[str, str] | None]:
    """The settings file and the environment that the unit gives the daemon; None where it does not."""
    command = re.search(r"argv\[\]=(.*?) ;", service.get("ExecStart", ""))
    file = re.search(r" --config[ =](/\S*)", command[1]) if command else None
    if file is None:
        return None, None
    return root / file[1].lstrip("/"), variables_of(service, root)


def _settings(config: Path | None, environ: Mapping[str, str] | None) -> tuple[Effective, str | None, bool]:
    try:
        return load(config, environ=environ), None, False
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
    said = ask(["systemctl", "show", *UNITS, OTHERS, "--property", PROPERTIES])
    if said.status != 0:
        return None
    blocks = [_properties(block) for block in said.out.split("\n\n")]
    return {
        block["Id"]: block for block in blocks if block.get("LoadState") not in (None, "not-found") and "Id" in block
    }


def _properties(block: str) -> dict[str, str]:
    """By name; one that comes more than once, as Listen does, has a line each."""
    found: dict[str, str] = {}
    for name, equals, value in (line.partition("=") for line in block.splitlines()):
        if equals:
            found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def _own_listeners(root: Path, service: Mapping[str, str]) -> tuple[Listener, ...]:
    pid = service.get("MainPID", "")
    inodes = inodes_of(root, int(pid)) if pid.isdecimal() and int(pid) else None
    return tuple(listener for listener in listeners(root) if inodes and listener.inode in inodes)


def _places(settings: Settings, units: Mapping[str, Mapping[str, str]], root: Path) -> Sequence[Address]:
    """Where the daemon may be asked, the likeliest first: its own sockets, the socket unit's, the settings'."""
    own = [listener.address for listener in _own_listeners(root, units.get(SERVICE, {}))]
    unit = units.get(SOCKET, {})
    from_unit = asked_for(unit.get("Listen", "")) if unit.get("ActiveState") == "active" else ()
    configured = (settings.server.host, settings.server.port)
    places = own[:1] or [*from_unit[:1], configured]
    return list(dict.fromkeys((LOCAL.get(host, host), port) for host, port in places))


def _status(
    places: Sequence[Address], units: Mapping[str, Mapping[str, str]], tls: bool
) -> tuple[Mapping[str, Any] | None, str, Address, bool]:
    """What the daemon says at the first of `places` where it answers, or why not; the place, and whether by TLS.

    `tls`: what the settings say. A daemon that was not restarted since may do otherwise.
    """
    waiting = units.get(SOCKET, {}).get("ActiveState") == "active"
    if waiting and units.get(SERVICE, {}).get("ActiveState") in ("inactive", "failed"):
        why = f"{SOCKET} listens, and starts the service at the first connection"  # not by this one
        return None, why, places[0], tls
    problems = []
    for host, port in places:
        if port == 0:
            problems.append("server.port = 0: only its log tells the port that it took")
            continue
        for by_tls in (tls, not tls):
            said = get(host, port, "/v1/status", tls=by_tls)
            status = _decoded(said)
            if status is not None:
                return status, "", (host, port), by_tls
            if by_tls == tls:
                problems.append(said.problem or f"what answers is no appliance (HTTP {said.status})")
            if said.problem in (None, REFUSED, SILENT):
                break
    return None, problems[0], places[0], tls


def _decoded(said: Said) -> Mapping[str, Any] | None:
    if said.status != 200:
        return None
    try:
        status = msgspec.json.decode(said.out, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None
    return status if "ready" in status and "engine" in status else None
