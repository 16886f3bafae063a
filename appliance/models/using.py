"""Making an installed model the current one, on the disk. Knows store and slots; knows no engine."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.choosing import before, candidates, read_slots_or_none, resolve
from appliance.models.errors import NotInstalled
from appliance.models.slots import Measured, Slot, Slots, locked_slots, slot_of, used, write_slots
from appliance.models.store import Installed, Store
from appliance.models.verification import require_sound

if TYPE_CHECKING:
    from appliance.models.proving import Proof

Prove = Callable[[Installed, Measured | None], "Proof"]
"""Tries a model after the last good measurement. Raises ConfigError, NotSwitched."""


class Switched(Struct, frozen=True, kw_only=True):
    """What came of `use` or `rollback`."""

    model: str
    """ID@DIGEST."""
    previous: str | None
    """What `rollback` goes to from there."""
    outcome: Literal["switched", "unchanged", "next_start"]
    """unchanged: it was served already; next_start: no daemon runs that could switch."""
    canary: bool = False
    """Whether the canary was asked, and did well."""
    tokens_per_s: float | None = None
    """Of its answer, where that was long enough."""
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


def read_writable(store: Store) -> Slots:
    """The slots, read where they can be written, which is better known before minutes of work than after.

    Raises StoreUnusable.
    """
    try:
        with locked_slots(store.directory):
            return read_slots_or_none(store, lambda _: None)
    except OSError as error:
        raise store.unusable("written", error) from None


def switched(
    slot: Slot, after: Slots, outcome: Literal["switched", "unchanged", "next_start"], proof: "Proof | None"
) -> Switched:
    """What came of it, with the slots as they are then."""
    answer = None if proof is None else proof.answer
    ttft_s = None if answer is None else answer.ttft_s
    speed = None if answer is None else answer.tokens_per_s
    return Switched(
        model=str(slot),
        previous=None if after.previous is None else str(after.previous),
        outcome=outcome,
        canary=answer is not None,
        tokens_per_s=None if speed is None else round(speed, 1),
        ttft_ms=None if ttft_s is None else round(1000 * ttft_s, 1),
    )


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


def use_at_next_start(
    store: Store, preferred: Sequence[str], reference: str | None, prove: Prove | None = None
) -> Switched:
    """Have the next start serve the model that `reference` names, or, without one, roll back; every byte is read.

    `prove` has the last word. Raises as `wanted` and `commit` do, ModelDamaged, and what `prove` raises; then nothing
    has changed.
    """
    served = served_without_daemon(store, preferred)
    model = wanted(store, reference, served)
    require_sound(model.manifest, model.directory)
    proof = None if prove is None else prove(model, read_writable(store).measured)
    slots = commit(store, model, instead_of=served, measured=None if proof is None else proof.measured)
    return switched(slot_of(model.manifest), slots, "next_start", proof)
