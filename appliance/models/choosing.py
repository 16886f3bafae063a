"""Which installed model is served: the current one, else by models.preferred; and which instead, where that fails.

Knows the store and its slots; knows no engine.
"""

import logging
from collections.abc import Callable, Sequence

from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.errors import ManifestTooNew, ModelDamaged, NotInstalled, NoUsableModel, SlotsDamaged
from appliance.models.manifest import installed_versions
from appliance.models.slots import (
    BadSlot,
    Slot,
    Slots,
    change_slots,
    fallen_back,
    now,
    parse_reference,
    read_slots,
    slot_of,
)
from appliance.models.store import Installed, Store, Unreadable
from appliance.models.verification import compare_releases, require_sound
from appliance.observability.events import Event, event
from appliance.observability.logs import fields

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


class Candidates(Struct, frozen=True):
    """What may be served, best first."""

    models: tuple[Installed, ...]
    """Those that are marked bad come last."""
    unreadable: tuple[Unreadable, ...]
    """Copies that would have been among them, but for their manifests."""


def read_slots_or_none(store: Store, tell: Tell) -> Slots:
    """The store's slots; where their file is of no use that is told, and models.preferred decides."""
    try:
        return read_slots(store.directory)
    except (SlotsDamaged, ManifestTooNew) as error:
        tell(f"{error} (left aside)")
        return Slots()


def candidates(store: Store, preferred: Sequence[str], slots: Slots, *, only: str | None = None) -> Candidates:
    """What may be served, best first: current, previous, then the copies of each preferred id, the newest first.

    `only`: an id that somebody named for this once; no other is served. Raises StoreUnusable, ConfigError.
    """
    ids = [only] if only is not None else list(preferred)
    chosen = [slot for slot in (slots.current, slots.previous) if slot is not None and only in (None, slot.id)]
    entries = {name: store.entries(name) for name in dict.fromkeys([*(slot.id for slot in chosen), *ids])}
    ordered = [entry for slot in chosen for entry in entries[slot.id] if entry.directory.name == slot.digest]
    ordered += [entry for name in ids for entry in entries[name]]
    unique = {entry.directory: entry for entry in ordered}.values()
    models = [entry for entry in unique if isinstance(entry, Installed)]
    bad = {mark.slot for mark in slots.bad}
    models.sort(key=lambda model: slot_of(model.manifest) in bad)
    return Candidates(tuple(models), tuple(entry for entry in unique if isinstance(entry, Unreadable)))


def resolve(store: Store, reference: str) -> Installed:
    """The model that "ID[@DIGEST]" names; the newest of its id without a digest.

    Raises NotInstalled, ModelDamaged, ManifestTooNew, StoreUnusable; ConfigError for what is no reference.
    """
    try:
        model_id, digest = parse_reference(reference)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    entries = store.entries(model_id)
    found = [entry for entry in entries if entry.directory.name.startswith(digest)]
    if not found and entries:
        names = ", ".join(entry.directory.name for entry in entries)
        raise NotInstalled(f"model {model_id}@{digest} is not installed in {store.directory}; of that id: {names}")
    if not found:
        raise NotInstalled(
            f"model {model_id} is not installed in {store.directory}{store.known()}; "
            f"run: appliance models pull {model_id}"
        )
    if digest and len(found) > 1:
        raise NotInstalled(
            f"{model_id}@{digest} stands for {len(found)} models: {', '.join(e.directory.name for e in found)}"
        )
    if isinstance(found[0], Unreadable):
        raise found[0].error
    return found[0]


def before(store: Store, slots: Slots, served: Slot) -> Installed:
    """What `rollback` goes to from `served`: the previous model, else the next older copy of the same id.

    Raises NotInstalled where there is neither.
    """
    if slots.previous is not None and slots.previous != served:
        return resolve(store, str(slots.previous))
    copies = [entry for entry in store.entries(served.id) if isinstance(entry, Installed)]
    names = [slot_of(model.manifest) for model in copies]
    older = copies[names.index(served) + 1 :] if served in names else copies
    good = [model for model in older if slots.why_bad(slot_of(model.manifest)) is None]
    if not good:
        raise NotInstalled(
            f"there is nothing to roll back to from {served}: no model was used before it, and no older copy is "
            "installed; choose one with: appliance models use ID"
        )
    return good[0]


class Choice:
    """What a daemon serves of a store. Its methods read files, and belong on a thread."""

    def __init__(self, store: Store, preferred: Sequence[str], *, only: str | None = None) -> None:
        """`only`: an id that somebody named for this once."""
        self.store = store
        self.preferred = preferred
        self._only = only
        self.installed: Installed | None = None
        """What is served, or about to be; None before `first`, and where nothing of the store is."""
        self._failed: dict[Slot, BadSlot | None] = {}  # with the mark that it is to have
        self._damaged: dict[Slot, str] = {}

    def first(self, tell: Tell) -> Installed:
        """The best candidate whose every byte is right; `tell` hears what is wrong with better ones.

        Raises ConfigError with what is wrong with the best, where none is right.
        """
        warnings: list[str] = []
        slots = read_slots_or_none(self.store, warnings.append)
        found = candidates(self.store, self.preferred, slots, only=self._only)
        warnings += [str(entry.error) for entry in found.unreadable]
        damage: ModelDamaged | None = None
        for model in found.models:
            slot = slot_of(model.manifest)
            if slot in self._failed:
                continue
            try:
                warnings += require_sound(model.manifest, model.directory)
            except ModelDamaged as error:
                damage = damage or error
                warnings.append(f"{error} (another is looked for)")
                self._reject(model, str(error))
                self._damaged[slot] = str(error)
                continue
            if slots.why_bad(slot) is not None:
                warnings.append(f"{slot} is marked bad, and there is no other: {slots.why_bad(slot)}")
            self.installed = model
            for warning in warnings:
                tell(warning)
            return model
        if damage is not None:
            raise damage
        if found.unreadable:
            raise found.unreadable[0].error
        if found.models:
            raise NoUsableModel(f"every model that may be served of {self.store.directory} has failed")
        return self.store.choose([self._only] if self._only is not None else self.preferred)  # raises NoUsableModel

    def check(self) -> None:
        """Raises ModelDamaged where what is served is no longer what was installed."""
        if self.installed is not None:
            require_sound(self.installed.manifest, self.installed.directory)

    def fall_back(self, reason: str, require: Callable[[Installed], object] = lambda _: None) -> Installed | None:
        """What is to be served instead, now that what is served can't be, for `reason`; None: there is nothing else.

        `require` raises ConfigError for a model that this machine can't serve; the next one is looked for then.
        """
        failed = self.installed
        if failed is None:
            return None
        self._reject(failed, reason)
        other = self._other(require)
        if other is None:
            self.installed = failed
            return None
        _tell_fallback(slot_of(failed.manifest), slot_of(other.manifest), reason)
        return other

    def tell_passed_over(self) -> None:
        """Log which better ones `first` found damaged, once there is a log."""
        if self.installed is not None:
            for slot, reason in self._damaged.items():
                _tell_fallback(slot, slot_of(self.installed.manifest), reason)

    def _other(self, require: Callable[[Installed], object]) -> Installed | None:
        """The best that has not failed and that `require` passes; why better ones are left aside is logged."""

        def tell(line: str) -> None:
            log.warning("model left aside", extra=fields(reason=line))

        while True:
            try:
                other = self.first(tell)
            except ConfigError:
                return None
            slot = slot_of(other.manifest)
            try:
                require(other)
            except ConfigError as error:
                tell(f"{slot} would be used instead, but can't be: {error}")
                self._failed[slot] = None  # not bad: another machine, or another setting, may serve it
            else:
                return other

    def took(self, model: Installed | None) -> None:
        """`model` is served from now on."""
        self.installed = model
        if model is not None:
            self._failed.pop(slot_of(model.manifest), None)

    def settle(self) -> None:
        """What is served got ready: those that did not are marked bad, and a mark of its own is lifted.

        Not before: where another fails as well, the fault may be this machine's.
        Raises OSError, ConfigError, StoreBusy.
        """
        if self.installed is None:
            return
        served = slot_of(self.installed.manifest)
        bad = tuple(mark for mark in self._failed.values() if mark is not None)
        if bad or read_slots_or_none(self.store, lambda _: None).why_bad(served) is not None:
            change_slots(self.store.directory, lambda slots: fallen_back(slots, bad, served))
            for mark in bad:
                extra = event(Event.MODEL_MARKED_BAD, model=str(mark.slot), reason=mark.reason)
                log.warning("model marked bad", extra=extra)
        self._failed = dict.fromkeys(self._failed)  # left aside by this process, and marked once

    def _reject(self, model: Installed, reason: str) -> None:
        """Serve it no more. A model that only a newer OpenVINO reads is not bad: it is good again after an upgrade."""
        slot = slot_of(model.manifest)
        newer, _ = compare_releases(model.manifest, installed_versions(), "")
        self._failed[slot] = None if newer else BadSlot(slot, reason, now())


def _tell_fallback(failed: Slot, other: Slot, reason: str) -> None:
    extra = event(Event.MODEL_FALLBACK, model=str(failed), instead=str(other), reason=reason)
    log.error("model fails, another is used", extra=extra)
