"""The files that come with a release and lie outside of it: units, their drop-ins, settings. Knows no release."""

import os
from collections.abc import Callable, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from appliance.installing.errors import InstallError
from appliance.installing.layout import SERVICE, UNIT_PATTERNS, Layout
from appliance.installing.skeleton import SKELETON
from appliance.models.durable import open_replacement

FILE_MODE = 0o644
RESTART_STEPS = ("appliance.service.d", "restart-steps.conf")
RESTART_STEPS_SINCE = 254  # systemd's version


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


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_replacement(target) as file:
        file.write(content)
        os.fchmod(file.fileno(), FILE_MODE)
