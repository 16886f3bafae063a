"""Takes an installation away: all but data, or all of it. Knows what was put where; never what is in a release."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from appliance.installing.errors import InstallError
from appliance.installing.layout import SOCKET, UNIT_PATTERNS, USER, Layout
from appliance.installing.plan import Say, alone, carry_out, require_host
from appliance.installing.running import START_TIMEOUT_S, attempt, call
from appliance.installing.services import update_catalog
from appliance.installing.step import NotReverted, Step
from appliance.installing.steps import Command
from appliance.installing.unit_files import placed_units


def uninstall(layout: Layout, say: Say, asked: str, *, purge: bool, dry_run: bool) -> bool:
    """Remove releases, units and command; with `purge` settings, models and the account as well.

    `asked`: the command, as it was given. Returns whether there was anything; what was interrupted is finished by the
    next call. Raises InstallError.
    """
    require_host(layout, asked, dry_run=dry_run)
    steps: list[Step] = [StopUnits(layout)] if layout.is_this_host else []
    steps += [Disable(layout), RemoveCatalog(layout), RemovePaths(_placed(layout))]
    if layout.is_this_host:
        steps.append(ReloadAfterwards(layout))
    if purge:
        steps += [RemovePaths(_data(layout)), RemoveAccount(layout)]
    else:
        steps.append(RemovePaths([layout.cache]))
    # Last: this program may run from there.
    with alone(layout, say, dry_run=dry_run):
        done = carry_out(steps, say, dry_run=dry_run, take_back=False)
        had = layout.releases.exists()
        if had:
            say(f"{'would ' if dry_run else ''}remove {layout.opt}")
        if not dry_run:
            _remove_last(layout.opt)
    if (done or had) and not purge and (kept := _kept(layout)):
        say(f"settings, models and account stay (--purge: not); by hand they go with: {kept}")
    return done or had


def _kept(layout: Layout) -> str:
    """How what stays goes, for whoever wants that when no command is left to do it; empty where nothing stays."""
    links = {".wants", ".requires"}  # these and the cache go in any case
    paths = [str(path) for path in _data(layout) if path.exists() and path.suffix not in links and path != layout.cache]
    by_hand = [f"rm -r {' '.join(paths)}"] if paths else []
    by_hand += [f"userdel {USER}"] if layout.has_user() else []
    return "; ".join(by_hand)


def _remove_last(opt: Path) -> None:
    try:
        shutil.rmtree(opt)
    except OSError as error:
        raise InstallError(f"{opt} can't be removed: {error}") from None


class StopUnits(NotReverted):
    """All that runs: socket first, so that nothing starts the service again."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where a unit of ours is active."""
        active = self._active()
        return f"stop {', '.join(active)}" if active else None

    def apply(self) -> None:
        """The daemon drains."""
        active = self._active()
        if SOCKET in active:
            call(["systemctl", "stop", SOCKET], START_TIMEOUT_S)
        call(["systemctl", "stop", *active], START_TIMEOUT_S)

    def _active(self) -> list[str]:
        states = "--state=active,activating,reloading,deactivating,failed"
        listed = attempt(["systemctl", "list-units", "--plain", "--no-legend", states, *UNIT_PATTERNS]).stdout
        return sorted(line.split()[0] for line in listed.splitlines() if line.strip())


class Disable(NotReverted):
    """What links the units to boot."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where there is a link."""
        enabled = sorted({link.name for link in self._links()})
        return f"disable {', '.join(enabled)}" if enabled else None

    def apply(self) -> None:
        """The links alone: as `systemctl disable`, for units of older releases as well."""
        for link in self._links():
            link.unlink()
            if link.parent.name.startswith("appliance") and not any(link.parent.iterdir()):
                link.parent.rmdir()

    def _links(self) -> list[Path]:
        places = [place for kind in ("wants", "requires") for place in self._layout.own_units.glob(f"*.{kind}")]
        return [link for place in places for link in place.glob("appliance*") if link.is_symlink()]


class RemoveCatalog(NotReverted):
    """The journal's words for the appliance's events."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where there are any."""
        files = self._files()
        return f"remove {', '.join(map(str, files))}" if files else None

    def apply(self) -> None:
        """From the database as well."""
        for file in self._files():
            file.unlink()
        _remove_empty(self._layout.catalog)
        update_catalog(self._layout)

    def _files(self) -> list[Path]:
        return sorted(self._layout.catalog.glob("appliance*.catalog"))


class RemovePaths(NotReverted):
    """Files, links and whole directories."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def pending(self) -> str | None:
        """Where one is there."""
        there = [path for path in self._paths if os.path.lexists(path)]
        return f"remove {', '.join(map(str, there))}" if there else None

    def apply(self) -> None:
        """And directories of drop-ins that are empty then."""
        for path in self._paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            _remove_empty(path.parent)


def _remove_empty(directory: Path) -> None:
    """Directories that nothing is in any more: of drop-ins, and those below /usr/local/lib that came with the units."""
    while directory.is_dir() and not any(directory.iterdir()):
        below_local = "/usr/local/lib/" in str(directory)
        if not below_local and not directory.name.endswith(".d"):
            return
        directory.rmdir()
        directory = directory.parent


class ReloadAfterwards(NotReverted):
    """systemd forgets the units."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where it still knows one."""
        known = attempt(["systemctl", "list-units", "--all", "--plain", "--no-legend", *UNIT_PATTERNS]).stdout.strip()
        files = attempt(["systemctl", "list-unit-files", "--no-legend", *UNIT_PATTERNS]).stdout.strip()
        return "systemctl daemon-reload" if known or files or placed_units(self._layout) else None

    def apply(self) -> None:
        """Failures that it remembers as well."""
        call(["systemctl", "daemon-reload"])
        attempt(["systemctl", "reset-failed", *UNIT_PATTERNS])


class RemoveAccount(NotReverted):
    """The user and its group."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where it exists."""
        return f"remove the user {USER}" if self._layout.has_user() else None

    def apply(self) -> None:
        """Its home is what was removed before."""
        prefix = [] if self._layout.is_this_host else [f"--root={self._layout.root}"]
        call(["userdel", *prefix, USER])


def _placed(layout: Layout) -> list[Path]:
    """What installations have put outside of their own directory, the operator's own left out."""
    files = placed_units(layout)
    files += [place / "appliance.conf" for place in (layout.sysusers, layout.tmpfiles)]
    return files if Command.is_foreign(layout) else [*files, layout.command]


def _data(layout: Layout) -> list[Path]:
    """Settings, models, and what the operator has written about the units."""
    return [*sorted(_own_units(layout)), layout.config, layout.state, layout.cache, *_stamps(layout)]


def _own_units(layout: Layout) -> Iterator[Path]:
    for pattern in UNIT_PATTERNS:
        yield from layout.own_units.glob(pattern)


def _stamps(layout: Layout) -> list[Path]:
    return sorted(layout.timer_stamps.glob("stamp-appliance*"))
