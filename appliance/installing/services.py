"""The steps of an installation that ask systemd: reload, enable, start. Knows systemctl; knows no file's content."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.installing.errors import InstallError
from appliance.installing.layout import SERVICE, SOCKET, Layout
from appliance.installing.running import START_TIMEOUT_S, attempt, call, last_words
from appliance.installing.step import NotReverted
from appliance.installing.unit_files import PlaceFile, RemoveStale
from appliance.observability.events import Event

POLL_S = 0.2
RECENT = "1min"  # of journalctl
SETTLE_S = 3.0  # a start that systemd calls done and that fails at once

NO_MODEL = (
    "not started, as no model is installed yet: `appliance models pull --preferred`, or `appliance models install "
    f"BUNDLE.tar`; then `systemctl start {SOCKET} {SERVICE}`"
)


class UpdateCatalog(NotReverted):
    """What `journalctl -x` says of the appliance's events."""

    def __init__(self, layout: Layout, files: Sequence[PlaceFile]) -> None:
        self._layout = layout
        self._files = [file for file in files if file.target.parent == layout.catalog]

    def pending(self) -> str | None:
        """Where the journal's database is older than the file."""
        database = self._layout.catalog_database
        made_ns = database.stat().st_mtime_ns if database.exists() else 0
        newer = [f for f in self._files if f.pending() or f.target.stat().st_mtime_ns > made_ns]
        return "update the journal's catalog" if newer else None

    def apply(self) -> None:
        """Quick."""
        update_catalog(self._layout)


class Reload:
    """systemd reads the units."""

    def __init__(self, files: Sequence[PlaceFile | RemoveStale]) -> None:
        self._files = files

    def pending(self) -> str | None:
        """Where a file is another than systemd has read."""
        if any(file.changed or file.pending() for file in self._files):
            return "systemctl daemon-reload"
        units = (SERVICE, SOCKET)
        stale = any(show(unit, "NeedDaemonReload") == "yes" or show(unit, "LoadState") == "not-found" for unit in units)
        return "systemctl daemon-reload" if stale else None

    def apply(self) -> None:
        """Quick."""
        call(["systemctl", "daemon-reload"])

    def revert(self) -> None:
        """Once more: the files are the old ones again by then."""
        call(["systemctl", "daemon-reload"])


class Enable(NotReverted):
    """Service and socket are started at boot; an upgrade leaves that as the operator has it."""

    def __init__(self, layout: Layout, units: Sequence[str]) -> None:
        self._layout = layout
        self._units = units

    def pending(self) -> str | None:
        """At the first installation."""
        if self._layout.version_of(self._layout.current) is not None:
            return None
        missing = [unit for unit in self._units if not is_enabled(self._layout, unit)]
        return f"enable {' and '.join(missing)}" if missing else None

    def apply(self) -> None:
        """Links in /etc/systemd/system."""
        root = [] if self._layout.is_this_host else [f"--root={self._layout.root}"]
        call(["systemctl", *root, "--quiet", "enable", *self._units])


class Start:
    """The service runs, and from this release; with its socket, where that is enabled."""

    def __init__(self, layout: Layout, version: str, units: Sequence[PlaceFile | RemoveStale], *, remade: bool) -> None:
        self.left: str | None = None  # why it was not started
        self._remade = remade
        self._layout = layout
        self._version = version
        self._units = units
        self._started = False

    def pending(self) -> str | None:
        """Where it does not run, or runs another release or with other units."""
        if not self._is_behind():
            return None
        if not self._has_model():
            self.left = NO_MODEL
            return None
        return f"{'restart' if show(SERVICE, 'ActiveState') == 'active' else 'start'} {SERVICE}"

    def apply(self) -> None:
        """Returns when it has said that it is ready. Raises InstallError."""
        self._started = True
        self._run()

    def revert(self) -> None:
        """The release that was in use, with its units."""
        if self._started:
            self._run()

    def _run(self) -> None:
        attempt(["systemctl", "reset-failed", SERVICE, SOCKET])
        socket_changed = any(unit.changed for unit in self._units if SOCKET in unit.name)
        if is_enabled(self._layout, SOCKET) and (socket_changed or show(SOCKET, "ActiveState") != "active"):
            # A socket can't be started beside a daemon that listens itself.
            call(["systemctl", "stop", SOCKET, SERVICE], START_TIMEOUT_S)
            call(["systemctl", "start", SOCKET])
        done = attempt(["systemctl", "restart", SERVICE], START_TIMEOUT_S)
        if done.returncode != 0 or not self._stays():
            raise InstallError(f"{SERVICE} does not start: {_why()}")

    def _stays(self) -> bool:
        """A service that does not tell when it is ready counts once it has run for a moment."""
        if show(SERVICE, "Type") == "notify":
            return show(SERVICE, "ActiveState") in ("active", "reloading")
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            if show(SERVICE, "ActiveState") != "active":
                return False
            time.sleep(POLL_S)
        return True

    def _is_behind(self) -> bool:
        if show(SERVICE, "ActiveState") != "active" or self._remade or self._units_changed():
            return True
        return running_release() != self._version

    def _units_changed(self) -> bool:
        return any(unit.changed for unit in self._units)

    def _has_model(self) -> bool:
        """Whether there is anything to start with: a model, or the fake. Where that can't be told, the start will."""
        try:
            settings = self._asked("config", "show")["settings"]
            if settings["engine"]["pipeline"]["value"] == "fake":
                return True
            return bool(self._asked("models", "list")["installed"])
        except (InstallError, ValueError, KeyError):
            return True

    def _asked(self, *question: str) -> Any:
        """Of the release, or of the running program where that is only going to be made."""
        made = self._layout.release(self._version) / "bin/appliance"
        program = [str(made)] if made.exists() else [sys.executable, "-m", "appliance"]
        config = ["--config", str(self._layout.settings)] if self._layout.settings.exists() else []
        # As the unit says: who asks has a store of his own where there is none for the system yet.
        place = f"STATE_DIRECTORY={self._layout.state}"
        return json.loads(call(["env", place, *program, *question, "--json", *config]))


def check_settings(layout: Layout, version: str) -> None:
    """The release accepts the settings that are there. Raises InstallError with what is wrong."""
    if not layout.settings.exists() or not layout.is_this_host:
        return
    done = attempt([layout.release(version) / "bin/appliance", "config", "check", "--config", layout.settings])
    if done.returncode != 0:
        raise InstallError(f"release {version} does not accept the settings: {last_words(done)}")


def running_release() -> str | None:
    """The release that the service's main process was started from."""
    try:
        command = Path("/proc", show(SERVICE, "MainPID"), "cmdline").read_bytes()
    except OSError:
        return None
    parts = Path(command.split(b"\0")[0].decode(errors="replace")).parts
    return parts[parts.index("releases") + 1] if "releases" in parts[:-1] else None


def show(unit: str, name: str) -> str:
    """A property of a unit; empty where systemd does not answer."""
    return attempt(["systemctl", "show", "--value", f"--property={name}", unit]).stdout.strip()


def is_enabled(layout: Layout, unit: str) -> bool:
    """Whether the unit is started at boot."""
    root = [] if layout.is_this_host else [f"--root={layout.root}"]
    return attempt(["systemctl", *root, "is-enabled", unit]).stdout.strip() == "enabled"


def systemd_version() -> int:
    """The number of the host's systemd; 0 where there is none."""
    try:
        words = attempt(["systemctl", "--version"]).stdout.split()
    except InstallError:
        return 0
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def update_catalog(layout: Layout) -> None:
    """Have the journal read all catalog files anew; of another root, where this host has the tool for it."""
    if not layout.is_this_host and shutil.which("journalctl") is None:
        return
    root = [] if layout.is_this_host else [f"--root={layout.root}"]
    call(["journalctl", "--quiet", *root, "--update-catalog"])


def _why() -> str:
    """What the daemon said as it ended; where it did not come to that, where to look."""
    return show(SERVICE, "StatusText") or _last_reason() or f"see journalctl -u {SERVICE} -e"


def _last_reason() -> str:
    """Of the last start in vain: a client that waits may have had systemd begin another, which has no status yet."""
    event = f"MESSAGE_ID={Event.NOT_STARTED.message_id}"
    said = attempt(
        ["journalctl", f"--unit={SERVICE}", event, f"--since=-{RECENT}", "--lines=1", "--output=json"]
    ).stdout
    try:
        return str(json.loads(said).get("REASON", ""))
    except ValueError:  # nothing
        return ""
