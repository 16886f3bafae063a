"""STORE/slots.json: which installed model is current, which was before, which are bad. Reads no model.

It changes by one rename, under a lock of its own that is held for milliseconds: an import holds the store's for
minutes.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from appliance.models.catalog import ModelId
from appliance.models.durable import FILE_MODE, open_replacement
from appliance.models.errors import ManifestTooNew, SlotsDamaged
from appliance.models.locking import free_lock, take_lock
from appliance.models.manifest import DIGEST_NAME_LENGTH, Manifest

SLOTS_NAME = "slots.json"
SLOTS_LOCK_NAME = ".slots.lock"
SLOTS_FORMAT = 1
LOCK_WAIT_S = 10.0  # whoever holds it writes one small file
MOST_BAD = 32  # the oldest marks go first
MOST_REASON = 400  # characters

SlotDigest = Annotated[str, Meta(pattern=rf"\A[0-9a-f]{{{DIGEST_NAME_LENGTH}}}\Z")]
_REFERENCE = re.compile(r"([^@]+)(?:@([0-9a-f]{4,64}))?")


class Slot(Struct, frozen=True):
    """One installed model: STORE/id/digest."""

    id: ModelId
    digest: SlotDigest
    """The beginning of its digest, which names its directory."""

    def __str__(self) -> str:
        return f"{self.id}@{self.digest}"


class BadSlot(Struct, frozen=True):
    """A model that could not be served, and is served only where there is no other."""

    slot: Slot
    reason: str
    since: str
    """UTC, ISO 8601."""


class Measured(Struct, frozen=True, kw_only=True):
    """How fast the last model was whose canary was good."""

    slot: Slot
    tokens_per_s: float
    read_bytes: int | None
    """Bytes of weights read for a token; None where that can't be known."""
    at: str
    """UTC, ISO 8601."""
    pipeline: str = ""
    """engine.pipeline then: speeds of two have nothing to do with each other. Empty where an older release wrote it."""


class Slots(Struct, frozen=True, kw_only=True):
    """What is in slots.json. Without a current slot `models.preferred` decides."""

    format: int = SLOTS_FORMAT
    current: Slot | None = None
    """Served at the next start; set by `use` and `rollback`, and by an installation that replaces it."""
    previous: Slot | None = None
    """What was served before it; never the current one."""
    bad: tuple[BadSlot, ...] = ()
    """Oldest first."""
    measured: Measured | None = None

    def why_bad(self, slot: Slot) -> str | None:
        """Why the slot is marked bad; None where it isn't."""
        return next((mark.reason for mark in self.bad if mark.slot == slot), None)


Change = Callable[[Slots], Slots]


def slot_of(manifest: Manifest) -> Slot:
    """The slot of a model that is, or will be, installed."""
    return Slot(manifest.id, manifest.directory_name)


def now() -> str:
    """UTC, ISO 8601, as slots.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def parse_reference(text: str) -> tuple[str, str]:
    """ "ID[@DIGEST]" as the id and the beginning of a digest, which may be empty. Raises ValueError."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:100]!a} is no model: expected ID or ID@DIGEST, of whose digits four are enough")
    return match[1], (match[2] or "")[:DIGEST_NAME_LENGTH]


# ---- changes ---------------------------------------------------------------------------------------------


def used(slots: Slots, slot: Slot, *, instead_of: Slot | None, measured: Measured | None = None) -> Slots:
    """`slot` is served from now on, and `instead_of` was until now; whoever says so lifts a bad mark."""
    before = instead_of if instead_of not in (None, slot) else slots.previous
    return msgspec.structs.replace(
        slots,
        current=slot,
        previous=None if before == slot else before,
        bad=tuple(mark for mark in slots.bad if mark.slot != slot),
        measured=measured or slots.measured,
    )


def installed(slots: Slots, slot: Slot) -> Slots:
    """`slot` has been installed: it takes the place of a current one of its id, and is no longer bad."""
    slots = msgspec.structs.replace(slots, bad=tuple(mark for mark in slots.bad if mark.slot != slot))
    if slots.current is None or slots.current.id != slot.id or slots.current == slot:
        return slots
    return msgspec.structs.replace(slots, current=slot, previous=slots.current)


def removed(slots: Slots, slot: Slot) -> Slots:
    """`slot` is gone."""
    return msgspec.structs.replace(
        slots,
        current=None if slots.current == slot else slots.current,
        previous=None if slots.previous == slot else slots.previous,
        bad=tuple(mark for mark in slots.bad if mark.slot != slot),
    )


def fallen_back(slots: Slots, bad: tuple[BadSlot, ...], served: Slot) -> Slots:
    """`served` got ready where those in `bad` could not: they are marked, and one that was current gives way."""
    named = {mark.slot for mark in bad}
    kept = [mark for mark in slots.bad if mark.slot not in named and mark.slot != served]
    marked = [msgspec.structs.replace(mark, reason=mark.reason[:MOST_REASON]) for mark in bad]
    current = served if slots.current in named else slots.current
    return msgspec.structs.replace(
        slots,
        current=current,
        previous=None if slots.previous in named or slots.previous == current else slots.previous,
        bad=(*kept, *marked)[-MOST_BAD:],
    )


# ---- the file --------------------------------------------------------------------------------------------


def read_slots(store: Path) -> Slots:
    """What is in the store's slots.json; nothing where there is no such file.

    Raises SlotsDamaged where it can't be read or is none, ManifestTooNew for a later format.
    """
    file = store / SLOTS_NAME
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return Slots()
    except OSError as error:
        raise SlotsDamaged(f"{file} can't be read: {error.strerror}") from None
    try:
        found = msgspec.json.decode(text, type=_Format).format
        if found > SLOTS_FORMAT:
            raise ManifestTooNew(
                f"{file}: format {found} of a newer appliance, this one knows {SLOTS_FORMAT}; upgrade the appliance, "
                "or remove the file to have models.preferred decide"
            )
        return msgspec.json.decode(text, type=Slots)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SlotsDamaged(f"{file} is damaged: {error}; choose with: appliance models use ID") from None


def change_slots(store: Path, change: Change) -> Slots:
    """Write what `change` makes of the slots, where that is something else; returns it.

    A damaged file counts as none, and is replaced. Raises OSError, StoreBusy, ManifestTooNew.
    """
    with locked_slots(store):
        return write_slots(store, change)


@contextmanager
def locked_slots(store: Path) -> Iterator[None]:
    """Nobody else changes the slots in this block. Raises OSError, StoreBusy."""
    lock = take_lock(store / SLOTS_LOCK_NAME, wait_s=LOCK_WAIT_S, on_wait=lambda _: None)
    try:
        yield
    finally:
        free_lock(lock)


def write_slots(store: Path, change: Change) -> Slots:
    """As change_slots, where the lock is held."""
    try:
        before = read_slots(store)
    except SlotsDamaged:
        before = None
    after = change(before or Slots())
    if after != before:
        with open_replacement(store / SLOTS_NAME) as file:
            file.write(msgspec.json.format(msgspec.json.encode(after), indent=2) + b"\n")
            os.fchmod(file.fileno(), FILE_MODE)  # whatever the umask: the service's account must be able to read it
            if os.geteuid() == 0:
                owner = store.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        for left in store.glob(".*.partial"):  # of a writer that was killed: the lock is ours
            left.unlink(missing_ok=True)
    return after


class _Format(Struct):
    format: int
