"""Room where the appliance keeps models and state, and what its own quota leaves. Writes nothing."""

import os
from collections.abc import Callable
from pathlib import Path

from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.surroundings import Surroundings
from appliance.models.errors import MB, StoreUnusable
from appliance.models.store import Store

FULL_BYTES = 64 << 20  # slots, histories and journals no longer fit below this
LOW_BYTES = 1 << 30  # about two models of this size, with what their installation takes
LOW_SHARE = 0.02  # of all inodes
QUOTA_SHARE = 0.9
REMEDY = "make room there: appliance models prune, journalctl --vacuum-size=200M"

Statvfs = Callable[[Path], os.statvfs_result]


def check_disk(here: Surroundings, *, statvfs: Statvfs = os.statvfs) -> Finding:
    """The worst of state and store."""
    places = {"state": here.state, "store": here.store.directory}
    if places["store"].is_relative_to(here.state) and not _is_mount(places["store"]):
        del places["store"]  # the same room
    findings = [_place(name, path, statvfs) for name, path in places.items()] + [_quota(here.store)]
    facts = {key: value for finding in findings for key, value in finding.facts.items()}
    for status in ("red", "yellow", "unknown"):
        for finding in findings:
            if finding.status == status:
                return Finding(check="disk", status=finding.status, finding=finding.finding, remedy=finding.remedy,
                               facts=facts)  # fmt: skip
    return green("disk", "; ".join(finding.finding for finding in findings if finding.finding), **facts)


def _place(name: str, path: Path, statvfs: Statvfs) -> Finding:
    existing = path
    try:
        while not existing.exists() and existing.parent != existing:
            existing = existing.parent
        told = statvfs(existing)
    except OSError as error:
        return unknown("disk", f"{name} {path}: {error.strerror}", "run it as root, or as the service's account")
    free, total = told.f_bavail * told.f_frsize, told.f_blocks * told.f_frsize
    facts = {f"{name}_directory": str(path), f"{name}_free_bytes": free, f"{name}_total_bytes": total}
    shown = f"{name} {path}: {free / MB:,.0f} MB free"
    if told.f_flag & os.ST_RDONLY:
        return red("disk", f"{name} {path} is mounted read-only", "look for file system errors: dmesg; then mount it "
                   "writable again", **facts)  # fmt: skip
    if free < FULL_BYTES:
        return red("disk", f"{shown}: as good as full", REMEDY, **facts)
    if told.f_files and told.f_favail < told.f_files * LOW_SHARE:
        return yellow("disk", f"{name} {path}: nearly no inodes are left", "remove small files there", **facts)
    if free < LOW_BYTES:
        return yellow("disk", f"{shown}: no room for another model", REMEDY, **facts)
    return green("disk", shown, **facts)


def _is_mount(path: Path) -> bool:
    try:
        return path.is_mount()
    except OSError:  # below what this account may not search
        return False


def _quota(store: Store) -> Finding:
    quota = store.max_bytes
    try:
        held = sum(entry.size_bytes for entry in store.entries())
    except StoreUnusable as error:
        return unknown("disk", str(error), "run it as root, or as the service's account")
    facts = {"store_held_bytes": held, "store_quota_bytes": quota or None}
    if not quota:
        return green("disk", f"models {held / MB:,.0f} MB", **facts)
    shown = f"models {held / MB:,.0f} MB of models.max_store_bytes, {quota / MB:,.0f} MB"
    if held >= quota * QUOTA_SHARE:
        return yellow("disk", shown, "appliance models prune, or raise models.max_store_bytes", **facts)
    return green("disk", shown, **facts)
