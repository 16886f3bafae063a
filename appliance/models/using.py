"""Making an installed model the current one, on the disk. Knows store and slots; knows no engine."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.choosing import before, candidates, read_slots_or_none, resolve
from appliance.models.errors import NotInstalled
from appliance.models.slots import Measured, Slot, Slots, locked_slots, slot_of, used, write_slots
from appliance.models.store import Installed, Store
from appliance.models.verification import require_sound


class Switched(Struct, frozen=True, kw_only=True):
    """What came of `use` or `rollback`."""

    model: str
    """ID@DIGEST."""
    previous: str | None
    """What `rollback` goes to from there."""
    outcome: Literal["switched", "unchanged", "next_start"]
    """unchanged: it was served already; next_start: no daemon runs that could switch."""
    tokens_per_s: float | None = None
    """Of the canary, where one was asked."""
    ttft_ms: float | None = None


def commit(store: Store, model: Installed, *, instead_of: Slot | None, measured: Measured | None = None) -> Slots:
    """Make `model` current, in one step; returns the slots as they are then.

    Raises NotInstalled where it was removed meanwhile, StoreUnusable, StoreBusy, ManifestTooNew.
    """
    slot = slot_of(model.manifest)
    try:
        with locked_slots(store.directory):
            if not model.directory.is_dir():
                raise NotInstalled(f"{slot} was removed from {store.directory} meanwhile")
            return write_slots(
                store.directory, lambda slots: used(slots, slot, instead_of=instead_of, measured=measured)
            )
    except OSError as error:
        raise store.unusable("written", error) from None


def served_without_daemon(store: Store, preferred: Sequence[str]) -> Slot | None:
    """What a daemon would serve that started now, its files unread; None where it would find nothing."""
    slots = read_slots_or_none(store, lambda _: None)
    try:
        models = candidates(store, preferred, slots).models
    except ConfigError:
        return None
    return slot_of(models[0].manifest) if models else None


def wanted(store: Store, reference: str | None, served: Slot | None) -> Installed:
    """The model that `reference` names; without one, what `rollback` goes to from `served`.

    Raises as `resolve` and `before` do.
    """
    if reference is not None:
        return resolve(store, reference)
    if served is None:
        raise NotInstalled("there is nothing to roll back to: nothing is served")
    return before(store, read_slots_or_none(store, lambda _: None), served)


def use_at_next_start(store: Store, preferred: Sequence[str], reference: str | None) -> Switched:
    """Have the next start serve the model that `reference` names, or, without one, roll back; every byte is read.

    Raises as `wanted` and `commit` do, and ModelDamaged.
    """
    served = served_without_daemon(store, preferred)
    model = wanted(store, reference, served)
    require_sound(model.manifest, model.directory)
    slots = commit(store, model, instead_of=served)
    return Switched(
        model=str(slot_of(model.manifest)),
        previous=None if slots.previous is None else str(slots.previous),
        outcome="next_start",
    )
