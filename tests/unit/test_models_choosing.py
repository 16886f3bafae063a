"""Which model is served, and which instead: current, previous, preferred; damaged, unreadable, bad ones left aside."""

from pathlib import Path

import msgspec
import pytest

from appliance.errors import ConfigError
from appliance.models.choosing import Choice, before, resolve
from appliance.models.errors import ManifestTooNew, ModelDamaged, NotInstalled, NoUsableModel
from appliance.models.fake import install_fake
from appliance.models.manifest import OpenVinoVersions, encode_manifest, sealed
from appliance.models.slots import BadSlot, Slot, Slots, change_slots, fallen_back, read_slots, slot_of
from appliance.models.store import Installed, Store
from appliance.models.using import use_at_next_start


def slot(model: Installed) -> Slot:
    return slot_of(model.manifest)


def damage(model: Installed) -> None:
    (model.directory / "openvino_model.bin").write_bytes(b"Weights")


def ignore(_: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def choose(store: Store, *preferred: str, only: str | None = None) -> Installed:
    return Choice(store, preferred or ("fake",), only=only).first(ignore)


def test_without_a_choice_the_newest_of_the_first_preferred_is_served(store: Store) -> None:
    install_fake(store, content=b"one")
    newest = install_fake(store, content=b"two")
    second = install_fake(store, "second")
    assert choose(store, "fake", "second") == newest
    assert choose(store, "none", "second") == second


def test_what_is_used_is_served_whatever_is_preferred(store: Store) -> None:
    older = install_fake(store, content=b"one")
    install_fake(store, content=b"two")
    other = install_fake(store, "other")
    use_at_next_start(store, ["fake"], "other")
    assert choose(store) == other
    use_at_next_start(store, ["fake"], f"fake@{older.directory.name[:6]}")
    assert choose(store) == older


def test_a_model_named_for_once_is_served_whatever_is_used(store: Store) -> None:
    older = install_fake(store, content=b"one")
    newer = install_fake(store, content=b"two")
    other = install_fake(store, "other")
    use_at_next_start(store, ["fake"], "other")
    assert choose(store, "fake", only="fake") == newer
    use_at_next_start(store, ["fake"], str(slot(older)))
    assert choose(store, "fake", only="fake") == older
    assert choose(store, "other", only="other") == other


def test_what_was_installed_last_of_the_current_id_is_served_and_can_be_rolled_back(store: Store) -> None:
    one = install_fake(store, content=b"one")
    use_at_next_start(store, ["fake"], "fake")
    two = install_fake(store, content=b"two")
    assert choose(store) == two
    install_fake(store, "other")
    assert choose(store) == two
    assert use_at_next_start(store, ["fake"], None).model == str(slot(one))
    assert choose(store) == one


def test_rollback_goes_to_the_previous_and_back(store: Store) -> None:
    fake, other = install_fake(store), install_fake(store, "other")
    assert use_at_next_start(store, ["fake"], "other").previous == str(slot(fake))
    assert use_at_next_start(store, ["fake"], None).model == str(slot(fake))
    assert use_at_next_start(store, ["fake"], None).model == str(slot(other))


def test_rollback_without_any_choice_goes_to_the_copy_before(store: Store) -> None:
    one = install_fake(store, content=b"one")
    two = install_fake(store, content=b"two")
    assert before(store, Slots(), slot(two)) == one
    with pytest.raises(NotInstalled, match="nothing to roll back to from fake@"):
        before(store, Slots(), slot(one))
    assert use_at_next_start(store, ["fake"], None).model == str(slot(one))
    assert choose(store) == one


def test_rollback_passes_over_copies_that_are_bad(store: Store) -> None:
    one = install_fake(store, content=b"one")
    two = install_fake(store, content=b"two")
    three = install_fake(store, content=b"three")
    slots = Slots(bad=(BadSlot(slot(two), "crashed", "now"),))
    assert before(store, slots, slot(three)) == one


def test_a_reference_is_resolved_or_told_why_not(store: Store) -> None:
    one = install_fake(store, content=b"one")
    two = install_fake(store, content=b"two")
    assert resolve(store, "fake") == two
    assert resolve(store, f"fake@{one.manifest.digest}") == one
    with pytest.raises(NotInstalled, match=f"fake@ffff is not installed .*; of that id: .*{one.directory.name}"):
        resolve(store, "fake@ffff")
    with pytest.raises(NotInstalled, match="; installed: fake; run: appliance models pull nothing"):
        resolve(store, "nothing")
    with pytest.raises(ConfigError, match="can't be a model's id"):
        resolve(store, "../fake")
    with pytest.raises(ConfigError, match="expected ID or ID@DIGEST"):
        resolve(store, "fake@..")


def newer_format(model: Installed) -> None:
    file = model.directory / "manifest.json"
    file.write_text(file.read_text("utf-8").replace('"format": 1', '"format": 2'), "utf-8")


def test_a_manifest_of_a_newer_appliance_can_be_neither_used_nor_served(store: Store) -> None:
    good = install_fake(store, content=b"one")
    use_at_next_start(store, ["fake"], "fake")
    newer = install_fake(store, "newer")
    newer_format(newer)
    with pytest.raises(ManifestTooNew, match="format 2 of a newer appliance"):
        use_at_next_start(store, ["fake"], "newer")
    assert choose(store) == good
    newer_format(good)
    with pytest.raises(ManifestTooNew, match="upgrade the appliance"):
        choose(store)


def test_a_damaged_model_is_not_used(store: Store) -> None:
    install_fake(store)
    other = install_fake(store, "other")
    damage(other)
    with pytest.raises(ModelDamaged, match=r"openvino_model\.bin is damaged: sha256"):
        use_at_next_start(store, ["fake"], "other")
    assert read_slots(store.directory) == Slots()


def test_where_the_current_one_is_damaged_the_previous_is_served_and_told(store: Store) -> None:
    fake, other = install_fake(store), install_fake(store, "other")
    use_at_next_start(store, ["fake"], "other")
    damage(other)
    told: list[str] = []
    choice = Choice(store, ["fake"])
    assert choice.first(told.append) == fake
    assert "openvino_model.bin is damaged" in told[0]
    assert "run: appliance models pull --force other" in told[0]
    assert read_slots(store.directory).bad == ()  # not before another has got ready
    choice.settle()
    slots = read_slots(store.directory)
    assert (slots.current, slots.previous, [mark.slot for mark in slots.bad]) == (slot(fake), None, [slot(other)])


def test_without_any_choice_a_damaged_newest_makes_way_for_the_copy_before(store: Store) -> None:
    one, two = install_fake(store, content=b"one"), install_fake(store, content=b"two")
    damage(two)
    choice = Choice(store, ["fake"])
    assert choice.first(ignore) == one
    choice.settle()
    assert choose(store) == one
    assert [mark.slot for mark in read_slots(store.directory).bad] == [slot(two)]
    mended = install_fake(store, content=b"two")  # a fresh copy is good again
    assert read_slots(store.directory).bad == ()
    assert choose(store) == mended


def test_where_the_current_manifest_is_gone_the_previous_is_served(store: Store) -> None:
    fake, other = install_fake(store), install_fake(store, "other")
    use_at_next_start(store, ["fake"], "other")
    (other.directory / "manifest.json").unlink()
    told: list[str] = []
    assert Choice(store, ["none"]).first(told.append) == fake
    assert "manifest.json can't be read" in told[0]


def test_where_all_are_damaged_the_best_is_named(store: Store) -> None:
    fake, other = install_fake(store), install_fake(store, "other")
    use_at_next_start(store, ["fake"], "other")
    damage(fake)
    damage(other)
    told: list[str] = []
    with pytest.raises(ModelDamaged, match=r"model other: .*is damaged"):
        Choice(store, ["fake"]).first(told.append)
    assert told == []  # one line for exit status 78


def test_where_nothing_is_installed_the_command_is_named(store: Store) -> None:
    with pytest.raises(NoUsableModel, match="run: appliance models pull --preferred"):
        choose(store, "one", "two")
    with pytest.raises(NoUsableModel, match="run: appliance models pull one"):
        choose(store, only="one")


def test_a_model_that_fails_makes_way_once_for_each_other(store: Store) -> None:
    one, two = install_fake(store, content=b"one"), install_fake(store, content=b"two")
    choice = Choice(store, ["fake"])
    assert choice.first(ignore) == two
    assert choice.fall_back("crashed") == one
    assert choice.fall_back("crashed too") is None
    assert read_slots(store.directory) == Slots()  # nobody got ready: the machine may be at fault


def test_what_this_machine_can_not_serve_is_passed_over_and_told(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    small = install_fake(store, content=b"small")
    large = install_fake(store, content=b"large")
    broken = install_fake(store, content=b"broken")
    choice = Choice(store, ["fake"])
    assert choice.first(ignore) == broken

    def require(model: Installed) -> None:
        if model == large:
            raise ConfigError("serving takes too much")

    assert choice.fall_back("crashed", require) == small
    (told,) = [record for record in caplog.records if record.msg == "model left aside"]
    assert f"{slot(large)} would be used instead, but can't be: serving takes too much" in str(told.__dict__)
    choice.settle()
    assert [mark.slot for mark in read_slots(store.directory).bad] == [slot(broken)]  # large is well


def test_where_no_other_fits_what_fails_is_tried_on(store: Store) -> None:
    install_fake(store, content=b"large")
    broken = install_fake(store, content=b"broken")
    choice = Choice(store, ["fake"])
    choice.first(ignore)

    def refuse(_: Installed) -> None:
        raise ConfigError("serving takes too much")

    assert choice.fall_back("crashed", refuse) is None
    assert choice.installed == broken


def test_what_served_in_its_place_marks_what_failed_with_the_reason(store: Store) -> None:
    one, two = install_fake(store, content=b"one"), install_fake(store, content=b"two")
    use_at_next_start(store, ["fake"], "fake")
    choice = Choice(store, ["fake"])
    choice.first(ignore)
    choice.fall_back("it crashed twice")
    choice.settle()
    slots = read_slots(store.directory)
    assert slots.current == slot(one)
    assert slots.why_bad(slot(two)) == "it crashed twice"
    told: list[str] = []
    assert Choice(store, ["fake"]).first(told.append) == one
    assert told == []


def test_a_bad_model_is_served_where_there_is_no_other_and_told(store: Store) -> None:
    only = install_fake(store)
    change_slots(
        store.directory, lambda s: fallen_back(s, (BadSlot(slot(only), "crashed", "now"),), Slot("x", "a" * 16))
    )
    told: list[str] = []
    choice = Choice(store, ["fake"])
    assert choice.first(told.append) == only
    assert "marked bad, and there is no other: crashed" in told[0]
    choice.settle()  # it got ready
    assert read_slots(store.directory).bad == ()


def test_a_model_that_only_a_newer_openvino_reads_is_left_aside_and_not_marked(store: Store) -> None:
    good, later = install_fake(store, "good"), install_fake(store, "later")
    manifest = sealed(msgspec.structs.replace(later.manifest, openvino=OpenVinoVersions("2099.1.0", "2099.1.0.0")))
    directory = store.directory / "later" / manifest.directory_name
    later.directory.rename(directory)
    (directory / "manifest.json").write_bytes(encode_manifest(manifest))
    told: list[str] = []
    choice = Choice(store, ["later", "good"])
    assert choice.first(told.append) == good
    assert "newer than" in told[0]
    choice.settle()
    assert read_slots(store.directory) == Slots()


def test_what_is_served_is_checked_on_demand(store: Store) -> None:
    model = install_fake(store)
    choice = Choice(store, ["fake"])
    choice.check()
    choice.first(ignore)
    choice.check()
    damage(model)
    with pytest.raises(ModelDamaged):
        choice.check()
