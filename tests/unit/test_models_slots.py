"""slots.json: its changes, its file, and that one of the two states is there whenever a writer dies."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from appliance.errors import ConfigError
from appliance.models import slots as slots_module
from appliance.models.choosing import Choice
from appliance.models.errors import ManifestTooNew, SlotsDamaged, StoreBusy, StoreUnusable
from appliance.models.fake import install_fake
from appliance.models.slots import (
    SLOTS_LOCK_NAME,
    SLOTS_NAME,
    BadSlot,
    Measured,
    Slot,
    Slots,
    change_slots,
    fallen_back,
    installed,
    locked_slots,
    parse_reference,
    read_slots,
    removed,
    slot_of,
    used,
)
from appliance.models.store import Store
from appliance.models.using import commit, use_at_next_start
from appliance.models.verification import verify

A, B, C = (Slot("model", digit * 16) for digit in "abc")
OTHER = Slot("other", "d" * 16)


def bad(slot: Slot, reason: str = "crashed") -> BadSlot:
    return BadSlot(slot, reason, "2026-01-01T00:00:00+00:00")


def ignore(_: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_used_is_current_and_what_was_served_is_previous() -> None:
    first = used(Slots(), A, instead_of=None)
    assert (first.current, first.previous) == (A, None)
    second = used(first, B, instead_of=A)
    assert (second.current, second.previous) == (B, A)
    back = used(second, A, instead_of=B)
    assert (back.current, back.previous) == (A, B)


def test_using_what_is_used_already_keeps_the_way_back() -> None:
    both = Slots(current=B, previous=A)
    assert used(both, B, instead_of=B) == both
    assert used(both, B, instead_of=None) == both
    assert used(both, A, instead_of=None) == Slots(current=A)


def test_using_a_bad_model_lifts_its_mark_and_no_other() -> None:
    marked = Slots(current=A, bad=(bad(B), bad(C)))
    assert used(marked, B, instead_of=A).bad == (bad(C),)


def test_a_measurement_stays_until_there_is_another() -> None:
    measured = Measured(slot=A, tokens_per_s=30.0, read_bytes=None, at="now")
    assert used(used(Slots(), A, instead_of=None, measured=measured), B, instead_of=A).measured == measured


def test_what_is_installed_takes_the_place_of_a_current_one_of_its_id_only() -> None:
    assert installed(Slots(), A) == Slots()
    assert installed(Slots(current=OTHER), A) == Slots(current=OTHER)
    assert installed(Slots(current=A, previous=OTHER), B) == Slots(current=B, previous=A)
    assert installed(Slots(current=A, bad=(bad(A),)), A) == Slots(current=A)


def test_what_is_removed_is_forgotten() -> None:
    all_three = Slots(current=A, previous=B, bad=(bad(C),))
    assert removed(all_three, A) == Slots(previous=B, bad=(bad(C),))
    assert removed(all_three, B) == Slots(current=A, bad=(bad(C),))
    assert removed(all_three, C) == Slots(current=A, previous=B)


def test_falling_back_marks_what_failed_and_makes_what_is_served_current() -> None:
    after = fallen_back(Slots(current=A, previous=B, bad=(bad(B),)), (bad(A),), B)
    assert after == Slots(current=B, bad=(bad(A),))
    # Without a choice models.preferred goes on to decide.
    assert fallen_back(Slots(), (bad(A),), B) == Slots(bad=(bad(A),))


def test_marks_are_bounded_and_so_are_their_words() -> None:
    many = tuple(bad(Slot("model", f"{number:016x}")) for number in range(40))
    after = fallen_back(Slots(), many, A)
    assert (len(after.bad), after.bad[-1]) == (32, many[-1])
    assert len(fallen_back(Slots(), (bad(B, "x" * 9000),), A).bad[0].reason) == 400


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("fake", ("fake", "")),
        ("fake@abcd", ("fake", "abcd")),
        ("fake@" + "ab" * 32, ("fake", "ab" * 8)),  # a whole digest, as `list --json` shows it
    ],
)
def test_a_reference_is_an_id_and_perhaps_a_digest(text: str, parsed: tuple[str, str]) -> None:
    assert parse_reference(text) == parsed


@pytest.mark.parametrize("text", ["", "@abcd", "fake@", "fake@xyz1", "fake@abc", "fake@abcd@abcd", "fake@" + "a" * 65])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected ID or ID@DIGEST"):
        parse_reference(text)


# ---- the file ------------------------------------------------------------------------------------------------


def test_without_a_file_there_is_nothing_and_reading_makes_none(store: Store) -> None:
    install_fake(store)
    assert read_slots(store.directory) == Slots()
    assert sorted(entry.name for entry in store.directory.iterdir()) == [".lock", "fake"]


def test_what_is_written_is_read_again(store: Store) -> None:
    store.directory.mkdir()
    full = Slots(
        current=A,
        previous=B,
        bad=(bad(C),),
        measured=Measured(slot=A, tokens_per_s=31.5, read_bytes=None, at="2026-01-01T00:00:00+00:00"),
    )
    assert change_slots(store.directory, lambda _: full) == full
    assert read_slots(store.directory) == full
    assert (store.directory / SLOTS_NAME).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1, "current": {"id": "../x", "digest": "a"}}', '"\ud800'])
def test_a_damaged_file_is_told_and_replaced_by_the_next_choice(store: Store, text: str) -> None:
    model = install_fake(store)
    (store.directory / SLOTS_NAME).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(SlotsDamaged, match=r"slots\.json is damaged.*appliance models use ID"):
        read_slots(store.directory)
    told: list[str] = []
    assert Choice(store, ["fake"]).first(told.append) == model
    assert "slots.json is damaged" in told[0]
    commit(store, model, instead_of=None)
    assert read_slots(store.directory).current == slot_of(model.manifest)


def test_a_file_of_a_newer_appliance_is_left_alone(store: Store) -> None:
    model = install_fake(store)
    text = '{"format": 2, "current": "something new"}'
    (store.directory / SLOTS_NAME).write_text(text, "utf-8")
    told: list[str] = []
    assert Choice(store, ["fake"]).first(told.append) == model  # it serves all the same
    assert "format 2 of a newer appliance" in told[0]
    with pytest.raises(ManifestTooNew, match="upgrade the appliance"):
        commit(store, model, instead_of=None)
    with pytest.raises(ConfigError, match="upgrade the appliance"):
        install_fake(store, content=b"two")
    assert (store.directory / SLOTS_NAME).read_text("utf-8") == text
    assert store.list() == [model]


def test_a_second_process_waits_for_the_first_and_none_is_lost(store: Store) -> None:
    install_fake(store)
    script = (
        "import sys; from pathlib import Path; from appliance.models.slots import *\n"
        "for n in range(20):\n"
        "    mark = BadSlot(Slot(sys.argv[2], f'{n:016x}'), 'x', now())\n"
        "    change_slots(Path(sys.argv[1]), lambda s: fallen_back(s, (mark,), Slot('good', 'a' * 16)))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(store.directory), name], stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert len(read_slots(store.directory).bad) == 32  # of 40: none of them overwrote the other's


def test_a_lock_that_is_held_too_long_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = install_fake(store)
    monkeypatch.setattr(slots_module, "LOCK_WAIT_S", 0.1)
    with locked_slots(store.directory), pytest.raises(StoreBusy, match=f"{SLOTS_LOCK_NAME} is still held by process"):
        commit(store, model, instead_of=None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_that_may_not_be_written_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    store = Store(tmp_path / "store")
    first, second = install_fake(store, content=b"one"), install_fake(store, content=b"two")
    use_at_next_start(store, ["fake"], str(slot_of(first.manifest)))
    kept = read_slots(store.directory)
    os.seteuid(65_534)
    try:
        with pytest.raises(StoreUnusable, match="can't be written: Permission denied; run the command as"):
            use_at_next_start(store, ["fake"], str(slot_of(second.manifest)))
        assert Choice(store, ["fake"]).first(ignore) == first
    finally:
        os.seteuid(0)
    assert read_slots(store.directory) == kept


def test_a_full_disk_says_so_and_keeps_what_was(store: Store) -> None:
    first, second = install_fake(store, content=b"one"), install_fake(store, content=b"two")
    use_at_next_start(store, ["fake"], str(slot_of(first.manifest)))
    kept = read_slots(store.directory)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        with pytest.raises(StoreUnusable, match="can't be written: File too large"):
            use_at_next_start(store, ["fake"], str(slot_of(second.manifest)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert read_slots(store.directory) == kept
    full = store.unusable("written", OSError(errno.ENOSPC, "No space left on device"))
    assert "No space left on device; make room there" in str(full)
    assert [entry.name for entry in store.directory.iterdir() if "partial" in entry.name] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_chooses_gets_the_stores_owner(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 4321, 1234)
    store = Store(tmp_path / "state/models")
    install_fake(store)
    use_at_next_start(store, ["fake"], "fake")
    for name in (SLOTS_NAME, SLOTS_LOCK_NAME):
        found = (store.directory / name).stat()
        assert (found.st_uid, found.st_gid) == (4321, 1234)


# ---- a writer that dies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["use", "rollback", "install", "install_again", "remove_all_but_current"])
def test_a_writer_that_dies_at_any_step_leaves_a_model_to_serve(tmp_path: Path, action: str) -> None:
    store = Store(tmp_path / "store")
    older = install_fake(store, "fake", b"one")
    install_fake(store, "fake", b"two")
    install_fake(store, "third")
    install_fake(store, "other")
    use_at_next_start(store, ["fake"], "other")
    use_at_next_start(store, ["fake"], str(slot_of(older.manifest)))
    before = read_slots(store.directory)
    command = [sys.executable, "-P", "-m", "tests.support.crashing", str(store.directory), action]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    copies = [Path(line) for line in done.stdout.splitlines()]
    assert len(copies) > 10
    after = read_slots(copies[-1])
    seen = set()
    for copy in copies:
        found = read_slots(copy)
        assert found in (before, after)
        seen.add(msgspec.json.encode(found))
        told: list[str] = []
        chosen = Choice(Store(copy), ["fake"]).first(told.append)
        assert slot_of(chosen.manifest) == found.current, (copy, told)
        assert told == []
        assert verify(chosen.manifest, chosen.directory).sound
    assert len(seen) == len({msgspec.json.encode(state) for state in (before, after)})
