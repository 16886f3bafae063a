"""Making room: everything but what is current and what was before it. Knows store and slots."""

from collections.abc import Callable, Collection, Sequence

from msgspec import Struct

from appliance.errors import ConfigError
from appliance.models.choosing import before, read_slots_or_none
from appliance.models.errors import NotInstalled
from appliance.models.slots import Slot
from appliance.models.store import Installed, Store, Unreadable
from appliance.models.using import served_without_daemon


class Pruned(Struct, frozen=True):
    """What prune keeps and takes away."""

    kept: tuple[Installed | Unreadable, ...]
    removed: tuple[Installed | Unreadable, ...]

    @property
    def freed_bytes(self) -> int:
        """Of what is, or was, to be removed; call it before that is gone."""
        return sum(entry.size_bytes for entry in self.removed)


def plan(store: Store, preferred: Sequence[str], *, served: Slot | None) -> Pruned:
    """What prune would do. `served`: what a daemon answers with now, which is kept whatever the slots say.

    Raises StoreUnusable.
    """
    kept: set[Slot] = set() if served is None else {served}
    slots = read_slots_or_none(store, lambda _: None)
    kept |= {slot for slot in (slots.current, slots.previous) if slot is not None}
    next_served = served_without_daemon(store, preferred)
    if next_served is not None:
        kept.add(next_served)
        kept |= _before(store, next_served)
    entries = store.entries()
    keep = [Slot(entry.id, entry.directory.name) in kept for entry in entries]
    return Pruned(
        tuple(entry for entry, is_kept in zip(entries, keep, strict=True) if is_kept),
        tuple(entry for entry, is_kept in zip(entries, keep, strict=True) if not is_kept),
    )


def prune(
    store: Store,
    preferred: Sequence[str],
    *,
    served: Slot | None,
    only: Collection[Slot],
    wait_s: float,
    on_wait: Callable[[str], None],
) -> Pruned:
    """Remove what `plan` says, of those in `only`: what was shown before. Raises StoreBusy, StoreUnusable."""
    with store.open_writer(wait_s=wait_s, on_wait=on_wait) as writer:
        planned = plan(store, preferred, served=served)
        chosen = [entry for entry in planned.removed if Slot(entry.id, entry.directory.name) in only]
        try:
            for entry in chosen:
                writer.remove(entry.id, entry.directory.name)
        except OSError as error:
            raise store.unusable("written", error) from None
        return Pruned(planned.kept, tuple(chosen))


def _before(store: Store, served: Slot) -> set[Slot]:
    try:
        model = before(store, read_slots_or_none(store, lambda _: None), served)
    except (NotInstalled, ConfigError):
        return set()
    return {Slot(model.id, model.directory.name)}
