"""The steps of an installation as far as files go: each says what it would do, does it, and can take it back.

Knows files, links and the account; knows nothing of running services.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Protocol

from appliance.installing import release
from appliance.installing.errors import InstallError
from appliance.installing.layout import CURRENT, OPT, SERVICE, UNIT_PATTERNS, Layout
from appliance.installing.running import call
from appliance.installing.skeleton import SKELETON
from appliance.installing.source import Source
from appliance.models.durable import open_replacement, sync

FILE_MODE = 0o644
RESTART_STEPS = ("appliance.service.d", "restart-steps.conf")
RESTART_STEPS_SINCE = 254  # systemd's version


class Step(Protocol):
    """One thing that an installation sees to."""

    def pending(self) -> str | None:
        """What there is to do, in words; None where nothing is."""

    def apply(self) -> None:
        """Do it. Raises InstallError, OSError."""

    def revert(self) -> None:
        """Take back what `apply` did, as far as a failed upgrade needs it; steps are reverted in their order."""


class NotReverted:
    """A step that a failed upgrade leaves as it is."""

    def revert(self) -> None:
        """Nothing."""


class MakeRelease(NotReverted):
    """The release's directory."""

    def __init__(self, layout: Layout, source: Source, extras: list[str], *, force: bool) -> None:
        self._layout = layout
        self._source = source
        self._extras = extras
        self._force = force

    def pending(self) -> str | None:
        """Where it is not whole, lacks an extra, or is forced."""
        directory = self._layout.release(self._source.version)
        if release.is_whole(directory) and not self._force:
            had = release.record_of(directory).get("extras", [])
            if set(self._extras) <= set(had):
                return None
        return f"install {self._source.shown} to {directory}"

    def apply(self) -> None:
        """Several seconds to minutes."""
        release.make(self._layout, self._source, self._extras)


class PlaceFile:
    """One file with the content that comes with the release; `keep`: once there it is the operator's."""

    def __init__(self, content: Callable[[], bytes], target: Path, *, keep: bool = False) -> None:
        self.target = target
        self.name = str(target)
        self.changed = False
        self._content = content
        self._keep = keep
        self._before: bytes | None = None

    def pending(self) -> str | None:
        """Where it is missing or another."""
        if not self.target.exists():
            return f"write {self.target}"
        if self._keep or self.target.read_bytes() == self._content():
            return None
        return f"replace {self.target}"

    def apply(self) -> None:
        """Whole or not at all."""
        self._before = self.target.read_bytes() if self.target.exists() else None
        _write(self.target, self._content())
        self.changed = True

    def revert(self) -> None:
        """What was there before."""
        if not self.changed or self._keep:
            return
        if self._before is None:
            self.target.unlink(missing_ok=True)
        else:
            _write(self.target, self._before)


class RemoveStale:
    """Units of an older release that this one does not have."""

    def __init__(self, layout: Layout, wanted: Sequence[PlaceFile]) -> None:
        self.name = "older units"
        self.changed = False
        self._layout = layout
        self._wanted = {step.target for step in wanted}
        self._removed: dict[Path, bytes] = {}

    def pending(self) -> str | None:
        """Where there are any."""
        stale = self._stale()
        return f"remove {', '.join(map(str, stale))}, of an older release" if stale else None

    def apply(self) -> None:
        """Drop-ins of the operator are elsewhere."""
        for file in self._stale():
            self._removed[file] = file.read_bytes()
            file.unlink()
            self.changed = True

    def revert(self) -> None:
        """Put them back."""
        for file, content in self._removed.items():
            _write(file, content)

    def _stale(self) -> list[Path]:
        return [file for file in placed_units(self._layout) if file not in self._wanted]


class Account(NotReverted):
    """The service's account, by sysusers.d."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where it does not exist."""
        return None if self._layout.has_user() else "create the user appliance"

    def apply(self) -> None:
        """Its number is the next free one for system accounts."""
        call(["systemd-sysusers", *_root_option(self._layout), "appliance.conf"])


class Directories(NotReverted):
    """What tmpfiles.d lists: there before the service is first started."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where one is missing."""
        missing = [str(place) for place in (self._layout.config, self._layout.state) if not place.is_dir()]
        return f"create {' and '.join(missing)}" if missing else None

    def apply(self) -> None:
        """With owner and mode."""
        call(["systemd-tmpfiles", "--create", *_root_option(self._layout), "appliance.conf"])


class Switch:
    """`current` leads to the release, and `previous` to the one before. `check` raises where it must not."""

    def __init__(self, layout: Layout, version: str, check: Callable[[], None]) -> None:
        self._layout = layout
        self._version = version
        self._check = check
        self._before: tuple[str | None, str | None] = None, None

    def pending(self) -> str | None:
        """Where it leads elsewhere."""
        return None if self._current() == self._version else f"point {self._layout.current} to {self._version}"

    def apply(self) -> None:
        """In one step each; a process that runs keeps the release that it began with."""
        self._check()
        before = self._current()
        self._before = before, self._layout.version_of(self._layout.previous)
        if before is not None:
            _link(self._layout.previous, Path("releases", before))
        _link(self._layout.current, Path("releases", self._version))

    def revert(self) -> None:
        """Back to the release that was in use."""
        current, previous = self._before
        if current is None:
            return
        _link(self._layout.current, Path("releases", current))
        if previous is None:
            self._layout.previous.unlink()
        else:
            _link(self._layout.previous, Path("releases", previous))

    def _current(self) -> str | None:
        return self._layout.version_of(self._layout.current)


class Command(NotReverted):
    """`appliance` for people; a file of somebody else's stays."""

    TARGET = CURRENT / "bin/appliance"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where the name is free, or a link of ours leads elsewhere."""
        link = self._layout.command
        if self.is_foreign(self._layout) or (link.is_symlink() and link.readlink() == self.TARGET):
            return None
        return f"link {link} to {self.TARGET}"

    def apply(self) -> None:
        """In one step."""
        _link(self._layout.command, self.TARGET)

    @classmethod
    def is_foreign(cls, layout: Layout) -> bool:
        """Whether somebody else's file has the name."""
        link = layout.command
        ours = link.is_symlink() and link.readlink().is_relative_to(OPT)
        return not ours and (link.exists() or link.is_symlink())


class Prune(NotReverted):
    """Old releases, and what interrupted installations have left."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def pending(self) -> str | None:
        """Where there are more than the current and the previous."""
        old = [place.name for place in self._old()]
        return f"remove old releases: {', '.join(old)}" if old else None

    def apply(self) -> None:
        """Whole directories."""
        for place in self._old():
            shutil.rmtree(place)

    def _old(self) -> list[Path]:
        return [*release.unfinished(self._layout), *release.superfluous(self._layout)]


def place_files(layout: Layout, files: Traversable, systemd_version: int) -> list[PlaceFile]:
    """A step for each file that comes for systemd, and for the settings. Raises InstallError where there are none."""
    if not (files / SERVICE).is_file():
        raise InstallError(f"what is to be installed has no {SERVICE}: it is older than this command")

    def place(source: Traversable, target: Path, *, keep: bool = False) -> PlaceFile:
        return PlaceFile(source.read_bytes, target, keep=keep)

    steps = []
    for entry in sorted(files.iterdir(), key=lambda entry: entry.name):
        if entry.name in ("sysusers.d", "tmpfiles.d"):
            directory = layout.sysusers if entry.name == "sysusers.d" else layout.tmpfiles
            steps += [place(file, directory / file.name) for file in entry.iterdir()]
        elif entry.name.endswith(".slice.d"):  # who may connect: the site's from then on
            steps += [place(file, layout.own_units / entry.name / file.name, keep=True) for file in entry.iterdir()]
        elif entry.name.endswith(".d"):
            steps += [place(file, layout.units / entry.name / file.name) for file in entry.iterdir()]
        elif entry.name.endswith(".catalog"):
            steps.append(place(entry, layout.catalog / entry.name))
        elif entry.name.endswith((".service", ".socket", ".timer", ".slice")):
            steps.append(place(entry, layout.units / entry.name))
    steps_file = files / "optional" / RESTART_STEPS[0] / RESTART_STEPS[1]
    if systemd_version >= RESTART_STEPS_SINCE and steps_file.is_file():
        steps.append(place(steps_file, layout.units / RESTART_STEPS[0] / RESTART_STEPS[1]))
    steps.append(PlaceFile(SKELETON.encode, layout.settings, keep=True))
    return steps


def placed_units(layout: Layout) -> list[Path]:
    """The unit files and drop-ins that installations have put where no operator writes."""
    found = [path for pattern in UNIT_PATTERNS for path in layout.units.glob(pattern)]
    below = [file for path in found if path.is_dir() for file in path.iterdir()]
    return sorted([path for path in found if not path.is_dir()] + below)


def _root_option(layout: Layout) -> list[str]:
    return [] if layout.is_this_host else [f"--root={layout.root}"]


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_replacement(target) as file:
        file.write(content)
        os.fchmod(file.fileno(), FILE_MODE)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
    sync(link.parent)
