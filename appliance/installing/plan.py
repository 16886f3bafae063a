"""What an installation does, in order, and what happens where a step fails. Knows steps; knows no terminal."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from appliance.installing import release
from appliance.installing.errors import InstallError
from appliance.installing.layout import CURRENT, SERVICE, SOCKET, Layout
from appliance.installing.services import Enable, Reload, Start, UpdateCatalog, check_settings, systemd_version
from appliance.installing.source import Source, WheelDirectory
from appliance.installing.step import Step
from appliance.installing.steps import Account, Command, Directories, MakeRelease, Prune, Switch
from appliance.installing.unit_files import PlaceFile, RemoveStale, place_files
from appliance.models.locking import free_lock, take_lock

LOCK_WAIT_S = 60.0

Say = Callable[[str], None]


class Wanted(NamedTuple):
    """What an installation is asked for."""

    extras: list[str] | None = None
    """None: those of the release that is there, else release.DEFAULT_EXTRAS."""
    start: bool = True
    socket: bool = True
    force: bool = False
    dry_run: bool = False
    asked: str = "appliance install --system"
    """The command, as it was given."""


def install(layout: Layout, source: Source, wanted: Wanted, say: Say) -> bool:
    """Install, upgrade, or finish what was interrupted; whether anything was done, or would be.

    Each thing that is done goes to `say`. A failed upgrade leaves the release in use that was. Raises InstallError.
    """
    dry_run = wanted.dry_run
    require_host(layout, wanted.asked, dry_run=dry_run)
    before = layout.version_of(layout.current)
    is_upgrade = before not in (None, source.version)
    with alone(layout, say, dry_run=dry_run):
        remade = _make_release(layout, source, wanted, say)
        steps = _steps(layout, source, wanted, remade=remade)
        try:
            done = carry_out(steps, say, dry_run=dry_run, take_back=is_upgrade)
        except InstallError as error:
            raise InstallError(f"{error}; {before} is in use") if is_upgrade else error from None
        for note in _notes(layout, source, steps):
            say(note)
    return remade or done


def _make_release(layout: Layout, source: Source, wanted: Wanted, say: Say) -> bool:
    """Whether there was anything to make, or would be."""
    extras = _extras(layout, source.version) if wanted.extras is None else wanted.extras
    making = MakeRelease(layout, source, extras, force=wanted.force)
    try:
        return carry_out([making], say, dry_run=wanted.dry_run, take_back=False)
    except InstallError as error:
        if wanted.extras is not None or extras == release.DEFAULT_EXTRAS:
            raise
        few = ",".join(release.DEFAULT_EXTRAS)
        taken_over = f"it was to have {', '.join(extras)} as the release before has; with less: --extras {few}"
        raise InstallError(f"{error}; {taken_over}") from None


def _extras(layout: Layout, version: str) -> list[str]:
    """Those of this release where it is there, of the current one else."""
    there = [layout.release(version), layout.release(layout.version_of(layout.current) or version)]
    found = next((record for place in there if (record := release.record_of(place))), {})
    return list(found.get("extras", release.DEFAULT_EXTRAS))


def _steps(layout: Layout, source: Source, wanted: Wanted, *, remade: bool) -> list[Step]:
    """All but the release itself, in their order."""
    made = layout.release(source.version)
    files = release.systemd_files(made) if release.is_whole(made) and not wanted.force else source.units()
    placed = place_files(layout, files, systemd_version())
    stale = RemoveStale(layout, placed)
    places = {layout.units, layout.own_units}
    units: list[PlaceFile | RemoveStale] = [stale, *(step for step in placed if places & set(step.target.parents))]
    steps: list[Step] = [*placed, stale, Account(layout), Directories(layout), UpdateCatalog(layout, placed)]
    if layout.is_this_host:
        steps.append(Reload(units))
    steps += [
        Enable(layout, [SERVICE, SOCKET] if wanted.socket else [SERVICE]),
        Switch(layout, source.version, lambda: check_settings(layout, source.version)),
        Command(layout),
    ]
    if layout.is_this_host and wanted.start:
        steps.append(Start(layout, source.version, units, remade=remade))
    return [*steps, Prune(layout)]


def _notes(layout: Layout, source: Source, steps: Sequence[Step]) -> Iterator[str]:
    """What the operator should know besides."""
    made = layout.release(source.version)
    recorded = release.record_of(made).get("wheel_sha256") if release.is_whole(made) else None
    if recorded is not None and isinstance(source, WheelDirectory) and recorded != source.wheel_sha256():
        yield f"{made} was made from another wheel than {source.shown}; --force makes it anew"
    if Command.is_foreign(layout):
        yield f"{layout.command} is somebody else's and stays; the command is {CURRENT}/bin/appliance"
    for step in steps:
        if isinstance(step, Start) and step.left is not None:
            yield step.left


def carry_out(steps: Sequence[Step], say: Say, *, dry_run: bool, take_back: bool) -> bool:
    """Do what is pending, in order; whether there was anything. After a failure, `take_back` undoes what was done."""
    begun: list[Step] = []
    some = False
    try:
        for step in steps:
            what = step.pending()
            if what is None:
                continue
            some = True
            say(f"would {what}" if dry_run else what)
            if not dry_run:
                begun.append(step)
                step.apply()
    except (InstallError, OSError) as error:
        if take_back:
            _revert(begun, error)
        raise InstallError(str(error)) from None
    return some


def _revert(begun: Sequence[Step], reason: Exception) -> None:
    """In their order: what is started again is what the steps before have put back. Raises InstallError."""
    try:
        for step in begun:
            step.revert()
    except (InstallError, OSError) as error:
        raise InstallError(f"{reason}; going back failed as well: {error}") from None


def require_host(layout: Layout, asked: str, *, dry_run: bool) -> None:
    """Raises InstallError where it can't be done here at all. `asked`: the command, as it was given."""
    if dry_run or not layout.is_this_host:
        return
    if os.geteuid() != 0:
        raise InstallError(f"an installation for the system wants root: sudo {asked} (or --dry-run)")
    if not Path("/run/systemd/system").is_dir():
        raise InstallError("systemd does not run on this host; `appliance serve` needs none, see docs/operations.md")
    os.umask(0o022)  # the service's account reads what root writes here


@contextmanager
def alone(layout: Layout, say: Say, *, dry_run: bool) -> Iterator[None]:
    """One installation at a time. Raises InstallError."""
    if dry_run:
        yield
        return
    try:
        layout.opt.mkdir(parents=True, exist_ok=True)
        lock = take_lock(layout.lock, wait_s=LOCK_WAIT_S, on_wait=say)
    except OSError as error:
        raise InstallError(f"{layout.opt} can't be written: {error.strerror}") from None
    try:
        yield
    finally:
        free_lock(lock)
