"""The steps of an installation that put things in place: release, account, directories, links. Knows no services."""

import shutil
from collections.abc import Callable
from pathlib import Path

from appliance.installing import release
from appliance.installing.layout import CURRENT, OPT, Layout
from appliance.installing.running import call
from appliance.installing.source import Source
from appliance.installing.step import NotReverted
from appliance.models.durable import sync


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
        extras = "" if self._extras == release.DEFAULT_EXTRAS else f" with {', '.join(self._extras) or 'no extras'}"
        return f"install {self._source.shown} to {directory}{extras}"

    def apply(self) -> None:
        """Several seconds to minutes."""
        release.make(self._layout, self._source, self._extras)


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


def _root_option(layout: Layout) -> list[str]:
    return [] if layout.is_this_host else [f"--root={layout.root}"]


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
    sync(link.parent)
