"""The store: what is found, what is chosen, who may write, what is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.models.errors import ModelDamaged, NotInstalled, NoUsableModel, StoreBusy, StoreUnusable
from appliance.models.fake import install_fake
from appliance.models.store import Installed, Store, check_id
from appliance.models.verification import verify

ESCAPES = ["..", ".", "", "../x", "a/b", "/etc", ".staging-x", "A", "-x", "a" * 65, "a\n", "a\0b"]

HOLDER = """
import sys
from pathlib import Path
from appliance.models.store import Store
with Store(Path(sys.argv[1])).open_writer(wait_s=5, on_wait=print):
    print("held", flush=True)
    sys.stdin.read()
"""


def quiet(_: str) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_store_that_does_not_exist_is_empty(store: Store) -> None:
    assert store.list() == []
    assert store.find("fake") is None
    assert not store.directory.exists()


def test_an_installed_model_is_found_at_id_and_digest(store: Store) -> None:
    model = install_fake(store)
    assert store.find("fake") == model
    assert model.directory == store.directory / "fake" / model.manifest.digest[:16]
    assert sorted(entry.name for entry in store.directory.iterdir()) == [".lock", "fake"]


def test_the_newest_of_an_id_is_found(store: Store) -> None:
    install_fake(store, content=b"one")
    newest = install_fake(store, content=b"two")
    assert store.find("fake") == newest
    assert len(store.list()) == 2
    again = install_fake(store, content=b"one")  # the same digest as before, and now the newest
    assert store.find("fake") == again
    assert len(store.list()) == 2


def test_a_model_whose_manifest_is_damaged_does_not_hide_the_others(store: Store) -> None:
    broken = install_fake(store, "broken")
    (broken.directory / "manifest.json").write_text("{", "utf-8")
    good = install_fake(store, "good")
    assert store.list() == [good]
    assert [entry.id for entry in store.entries()] == ["broken", "good"]
    with pytest.raises(ModelDamaged):
        store.find("broken")


def test_importing_a_damaged_model_again_replaces_it(store: Store) -> None:
    model = install_fake(store)
    (model.directory / "openvino_model.bin").write_bytes(b"weightz")
    again = install_fake(store)
    assert again.directory == model.directory
    assert verify(again.manifest, again.directory).sound
    assert [entry.name for entry in store.directory.iterdir() if entry.name.startswith(".staging")] == []


@pytest.mark.parametrize("model_id", ESCAPES)
def test_no_id_can_leave_the_store(store: Store, model_id: str) -> None:
    with pytest.raises(ConfigError, match="can't be a model's id"):
        check_id(model_id)
    with pytest.raises(ConfigError, match="can't be a model's id"):
        store.find(model_id)
    with pytest.raises(ConfigError, match="can't be a model's id"):
        store.remove(model_id, wait_s=1, on_wait=quiet)


def test_what_a_killed_writer_left_is_removed_by_the_next(store: Store) -> None:
    install_fake(store)
    stale = store.directory / ".staging-abc" / "model"
    stale.mkdir(parents=True)
    (stale / "openvino_model.bin").write_bytes(b"half")
    assert [entry.id for entry in store.entries()] == ["fake"]
    with store.open_writer(wait_s=1, on_wait=quiet):
        assert not stale.parent.exists()
    assert store.find("fake") is not None


def test_staging_is_gone_after_an_error(store: Store) -> None:
    def fail() -> None:
        with store.open_writer(wait_s=1, on_wait=quiet) as writer, writer.open_staging() as scratch:
            (scratch / "half").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [entry.name for entry in store.directory.iterdir()] == [".lock"]


def test_a_second_writer_waits_and_names_the_holder(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        said: list[str] = []

        def on_wait(line: str) -> None:
            said.append(line)
            holder.communicate(b"")  # let it go only once we are known to wait

        with store.open_writer(wait_s=30, on_wait=on_wait):
            assert len(said) == 1
            assert f"process {holder.pid} is writing to {store.directory}" in said[0]


def test_the_wait_for_another_writer_is_bounded(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with (
            pytest.raises(StoreBusy, match=f"still held by process {holder.pid} after 0.1 s"),
            store.open_writer(wait_s=0.1, on_wait=quiet),
        ):
            pass
        holder.communicate(b"")


def test_the_lock_of_a_killed_writer_is_free(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.communicate()
    with store.open_writer(wait_s=0, on_wait=quiet):
        pass


def test_remove_takes_all_or_one(store: Store) -> None:
    one = install_fake(store, content=b"one")
    two = install_fake(store, content=b"two")
    other = install_fake(store, "other")
    assert store.remove("fake", digest=one.manifest.digest, wait_s=1, on_wait=quiet) == (one.directory,)
    assert store.list() == [two, other]
    store.remove("fake", wait_s=1, on_wait=quiet)
    assert not (store.directory / "fake").exists()
    assert store.list() == [other]


def test_removing_what_is_not_there_is_an_error_and_removes_nothing(store: Store) -> None:
    install_fake(store)
    with pytest.raises(NotInstalled, match=r"model nothing is not installed .*; installed: fake"):
        store.remove("nothing", wait_s=1, on_wait=quiet)
    with pytest.raises(NotInstalled, match="0 of these"):
        store.remove("fake", digest="ffffffffffffffff00", wait_s=1, on_wait=quiet)
    assert store.find("fake") is not None


def test_choose_takes_the_first_preferred_that_is_installed(store: Store) -> None:
    second = install_fake(store, "second")
    assert store.choose(["first", "second", "third"]) == second
    first = install_fake(store, "first")
    assert store.choose(["first", "second"]) == first


def test_choose_says_what_to_run(store: Store) -> None:
    install_fake(store, "other")
    with pytest.raises(NoUsableModel) as caught:
        store.choose(["first", "second"])
    assert str(caught.value) == (
        f"no usable model: none of first, second (models.preferred) is installed in {store.directory}; "
        "run: appliance models pull --preferred"
    )
    assert caught.value.exit_status == 78


def test_a_store_that_is_no_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("", "utf-8")
    with (
        pytest.raises(StoreUnusable, match=f"model store {file} .*can't be written"),
        Store(file).open_writer(wait_s=1, on_wait=quiet),
    ):
        pass
    with pytest.raises(StoreUnusable, match=f"model store {file} .*can't be read: Not a directory"):
        Store(file).list()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_somebody_else_can_be_read_and_not_written(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    store = Store(tmp_path / "store")
    model = install_fake(store)
    os.seteuid(65_534)
    try:
        assert verify(store.choose(["fake"]).manifest, model.directory).sound
        with pytest.raises(StoreUnusable, match=f"model store {store.directory} .*can't be written: Permission denied"):
            store.remove("fake", wait_s=1, on_wait=quiet)
        with pytest.raises(StoreUnusable, match="can't be written: Permission denied"):
            install_fake(store)
        with pytest.raises(StoreUnusable, match="can't be written: Permission denied"):
            install_fake(Store(tmp_path / "new"))
    finally:
        os.seteuid(0)
    assert store.find("fake") == model


def test_names_that_are_no_models_are_left_alone(store: Store) -> None:
    install_fake(store)
    (store.directory / "slots.json").write_text("{}", "utf-8")
    (store.directory / "lost+found").mkdir()
    (store.directory / "fake" / "notes").mkdir()
    assert [entry.directory.name for entry in store.entries() if isinstance(entry, Installed)] == [
        store.choose(["fake"]).directory.name
    ]
    assert len(store.entries()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_gets_the_stores_owner(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 4321, 1234)
    before = os.umask(0o077)
    try:
        model = install_fake(Store(state / "models"))
    finally:
        os.umask(before)
    paths = [state / "models", *(state / "models").rglob("*")]
    assert len(paths) > 6
    assert {(path.stat().st_uid, path.stat().st_gid) for path in paths} == {(4321, 1234)}
    assert {path.stat().st_mode & 0o777 for path in model.directory.iterdir()} == {0o644}
    assert model.directory.stat().st_mode & 0o777 == 0o755
