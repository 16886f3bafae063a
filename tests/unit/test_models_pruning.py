"""prune keeps what is current and what was before; the quota refuses what would pass it, and removes nothing."""

from pathlib import Path

import pytest

from appliance.models.errors import StoreFull
from appliance.models.fake import install_fake
from appliance.models.pruning import plan, prune
from appliance.models.slots import BadSlot, Slot, change_slots, fallen_back, read_slots
from appliance.models.store import Installed, Store, Unreadable
from appliance.models.using import use_at_next_start


def slot(entry: Installed | Unreadable) -> Slot:
    return Slot(entry.id, entry.directory.name)


def ignore(_: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def pruned(store: Store, served: Slot | None = None) -> set[Slot]:
    """What is left."""
    only = {slot(entry) for entry in plan(store, ["fake"], served=served).removed}
    prune(store, ["fake"], served=served, only=only, wait_s=1, on_wait=ignore)
    return {slot(entry) for entry in store.entries()}


def test_an_empty_store_has_nothing_to_remove(store: Store) -> None:
    assert plan(store, ["fake"], served=None).removed == ()


def test_current_and_previous_stay(store: Store) -> None:
    one, two = install_fake(store, content=b"one"), install_fake(store, content=b"two")
    other, third = install_fake(store, "other"), install_fake(store, "third")
    use_at_next_start(store, ["fake"], "other")
    use_at_next_start(store, ["fake"], str(slot(one)))
    assert pruned(store) == {slot(one), slot(other)}
    assert not two.directory.exists()
    assert not third.directory.parent.exists()
    slots = read_slots(store.directory)
    assert (slots.current, slots.previous) == (slot(one), slot(other))


def test_without_any_choice_what_would_be_served_and_the_copy_before_stay(store: Store) -> None:
    copies = [install_fake(store, content=content) for content in (b"one", b"two", b"three")]
    install_fake(store, "other")
    assert pruned(store) == {slot(copies[1]), slot(copies[2])}


def test_what_a_daemon_serves_stays(store: Store) -> None:
    fake, other = install_fake(store), install_fake(store, "other")
    assert pruned(store, slot(other)) == {slot(fake), slot(other)}


def test_what_is_damaged_or_bad_goes(store: Store) -> None:
    fake, bad, broken = (install_fake(store, name) for name in ("fake", "bad", "broken"))
    (broken.directory / "manifest.json").unlink()
    mark = BadSlot(slot(bad), "crashed", "now")
    change_slots(store.directory, lambda slots: fallen_back(slots, (mark,), slot(fake)))
    assert pruned(store) == {slot(fake)}
    assert read_slots(store.directory).bad == ()


def test_what_was_not_shown_is_not_removed(store: Store) -> None:
    install_fake(store)
    planned = plan(store, ["fake"], served=None)
    install_fake(store, "late")
    done = prune(store, ["fake"], served=None, only=set(map(slot, planned.removed)), wait_s=1, on_wait=ignore)
    assert (done.removed, len(store.list())) == ((), 2)


def test_what_is_freed_is_told(store: Store) -> None:
    install_fake(store)
    other = install_fake(store, "other", b"x" * 1000)
    freed = plan(store, ["fake"], served=None).freed_bytes
    assert freed == sum(file.stat().st_size for file in other.directory.iterdir()) > 1000


def test_an_installation_beyond_the_quota_is_refused_with_the_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=5000)
    fake = install_fake(store)
    with pytest.raises(StoreFull, match=r"would pass models\.max_store_bytes = 5000; run: appliance models prune"):
        install_fake(store, "large", b"x" * 4500)
    assert store.list() == [fake]
    assert sorted(entry.name for entry in store.directory.iterdir()) == [".lock", "fake"]
    install_fake(store, "small")


def test_a_copy_that_is_replaced_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", max_bytes=6000)
    model = install_fake(store, content=b"x" * 4000)
    (model.directory / "openvino_model.bin").write_bytes(b"y" * 4000)
    assert install_fake(store, content=b"x" * 4000).directory == model.directory
