"""Bundles where it can go wrong: full disks, kills at each step, two at once, stores that can't be written.

Run as a script this file is the program that is interrupted: `make` or `install`, which stops at a step until a file
appears, or fills the disk there.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.models import durable
from appliance.models.bundle import installing
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.bundle.writing import write_bundle
from appliance.models.children import Terminated, terminated_as_exception
from appliance.models.errors import StoreUnusable
from appliance.models.fake import install_fake
from appliance.models.progress import Silent
from appliance.models.store import Installed, Store
from appliance.models.verification import verify
from tests.support.bundle import good_bundle
from tests.support.pulling import FILL_BYTES, left_in, on_small_disk, wait_for_line

WEIGHTS = os.urandom(3_000_000)
LIMIT_BYTES = 2_000_000


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return good_bundle(tmp_path, content=WEIGHTS)


@pytest.fixture
def model(tmp_path: Path, bundle: Path) -> Installed:
    """The model that `bundle` is made of."""
    return Store(tmp_path / "store-of-fake").choose(["fake"])


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, __file__, *map(str, arguments)]


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def install(bundle: Path, store: Path, *, force: bool = False) -> str:
    with open_bundle(bundle) as opened:
        pulled = Installer(store=Store(store), progress=Silent(), wait_s=60).install(opened, force=force)
    assert verify(pulled.model.manifest, pulled.model.directory).sound
    return pulled.outcome


INSTALL_STEPS = ["checking", "copying", "installing", "os.rename 1"]


@pytest.mark.parametrize("step", INSTALL_STEPS)
def test_an_install_that_is_killed_leaves_what_was_there_and_a_repeat_succeeds(
    bundle: Path, tmp_path: Path, step: str
) -> None:
    store = tmp_path / "store"
    before = install_fake(Store(store), content=b"before")
    with start("install", bundle, store, "--force", "--stop", step, "--gate", tmp_path / "never") as process:
        wait_for_line(process, f"at {step}")
        process.kill()
        process.communicate(timeout=30)
    assert Store(store).list() == [before]
    assert verify(before.manifest, before.directory).sound
    assert any(name.startswith(".staging-") for name in left_in(store)) is (step != "checking")
    assert install(bundle, store, force=True) == "installed"
    assert left_in(store) == [".lock", "fake"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_an_install_that_gets_a_signal_leaves_nothing(
    bundle: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    store = tmp_path / "store"
    with start("install", bundle, store, "--stop", "copying", "--gate", tmp_path / "never") as process:
        wait_for_line(process, "at copying")
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == status
    assert left_in(store) == [".lock"]
    assert install(bundle, store) == "installed"


def test_of_two_installs_at_once_the_second_finds_the_model_installed(bundle: Path, tmp_path: Path) -> None:
    store, gate = tmp_path / "store", tmp_path / "gate"
    with start("install", bundle, store, "--stop", "copying", "--gate", gate) as first:
        wait_for_line(first, "at copying")
        with start("install", bundle, store) as second:
            assert f"process {first.pid} is writing" in wait_for_line(second, "waiting")
            gate.touch()
            answers = [json.loads(process.communicate(timeout=60)[0]) for process in (first, second)]
    assert [answer["outcome"] for answer in answers] == ["installed", "present"]


@pytest.mark.parametrize(
    ("size", "flags", "said"),
    [
        ("6m", ["--margin"], "needs about 68 MB, has 6 MB"),  # known beforehand
        ("2m", [], "needs about 4 MB, has 2 MB"),  # known beforehand
        ("6m", ["--fill", "copying"], "needs "),
        ("6m", ["--fill", "installing"], "needs "),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(
    bundle: Path, tmp_path: Path, size: str, flags: list[str], said: str
) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    ended = on_small_disk(size, store, command("install", bundle, store, *flags))
    assert ended.returncode == 1, ended.stderr
    assert f"disk full: {store} {said}" in ended.stderr
    left = json.loads(ended.stdout)["left"]
    assert left == ([".lock", "filler"] if "--fill" in flags else [])


def test_a_store_on_a_read_only_file_system_is_told(bundle: Path, tmp_path: Path) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    ended = on_small_disk("99m,ro", store, command("install", bundle, store))
    assert ended.returncode == 1, ended.stderr
    assert f"the model store {store} can't be written: Read-only file system" in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_somebody_else_is_not_written(bundle: Path, tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    store = Store(tmp_path / "store")
    before = install_fake(store, content=b"before")
    os.seteuid(65_534)
    try:
        with pytest.raises(StoreUnusable, match="can't be written: Permission denied"):
            install(bundle, store.directory, force=True)
    finally:
        os.seteuid(0)
    assert store.list() == [before]


def test_a_file_that_may_not_get_so_large_is_told(bundle: Path, model: Installed, tmp_path: Path) -> None:
    store, place = tmp_path / "store", tmp_path / "place"
    place.mkdir()
    ended = subprocess.run(command("install", bundle, store, "--limit"), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, left_in(store)) == (1, [".lock"])
    assert f"the model store {store} can't be written: File too large" in ended.stderr
    target = place / "out.tar"
    made = command("make", model.directory.parents[1], target, "--limit")
    ended = subprocess.run(made, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, left_in(place)) == (1, [])
    assert f"the bundle {target} can't be written: File too large" in ended.stderr


@pytest.mark.parametrize(
    ("size", "flags", "said"),
    [("2m", [], "disk full: {place} needs about 4 MB, has 2 MB"), ("6m", ["--fill", "bundling"], "No space left")],
)
def test_a_bundle_that_finds_no_room_leaves_what_was_there(
    model: Installed, tmp_path: Path, size: str, flags: list[str], said: str
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    ended = on_small_disk(size, place, command("make", model.directory.parents[1], place / "out.tar", "--old", *flags))
    assert ended.returncode == 1, ended.stderr
    assert said.format(place=place) in ended.stderr
    assert json.loads(ended.stdout) == {"left": ["filler", "out.tar"] if flags else ["out.tar"], "old": True}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("unnamed", [True, False], ids=["without a name", "with a name"])
def test_a_bundle_that_is_interrupted_leaves_nothing(
    model: Installed, tmp_path: Path, number: signal.Signals, unnamed: bool
) -> None:
    """On a file system without files that have no name a kill leaves a partial one beside the target."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "out.tar").write_bytes(b"old")
    if unnamed and durable._open_unnamed(place) is None:
        pytest.skip("this file system has no files without a name")
    flags = [] if unnamed else ["--named"]
    store = model.directory.parents[1]
    with start("make", store, place / "out.tar", "--stop", "bundling", "--gate", tmp_path / "never", *flags) as process:
        wait_for_line(process, "at bundling")
        process.send_signal(number)
        process.communicate(timeout=30)
    left = [name for name in left_in(place) if not name.endswith(".partial")]
    assert left == ["out.tar"]
    assert len(left_in(place)) == (2 if number == signal.SIGKILL and not unnamed else 1)
    assert (place / "out.tar").read_bytes() == b"old"


def test_a_file_system_without_unnamed_files_gets_the_same_bundle(
    bundle: Path, model: Installed, tmp_path: Path
) -> None:
    ended = subprocess.run(command("make", model.directory.parents[1], tmp_path / "out.tar", "--named"), timeout=60)
    assert ended.returncode == 0
    assert (tmp_path / "out.tar").read_bytes() == bundle.read_bytes()
    assert [name for name in left_in(tmp_path) if "partial" in name] == []


class Stopping(Silent):
    """Says where it is, and stops there until the gate is a file, or fills the disk."""

    def __init__(self, place: Path, stop: str, fill: str, gate: Path) -> None:
        self._place, self._stop, self._fill, self._gate = place, stop, fill, gate
        self._step = ""
        self._renames = 0

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def stage(self, label: str, total_bytes: int | None = None) -> None:
        self._step = label.rpartition(" ")[2]
        if total_bytes is None:
            self._reach(self._step)

    def advance(self, done_bytes: int = 0, total_bytes: int | None = None) -> None:
        self._reach(self._step)

    def count(self, done: int, total: int) -> None:
        self._reach(self._step)

    def hear(self, event: str, _: object) -> None:
        """An audit hook: stops before a rename is made."""
        if event == "os.rename" and self._stop.startswith(event):
            self._renames += 1
            self._reach(f"{event} {self._renames}")

    def _reach(self, step: str) -> None:
        if step == self._fill:
            self._fill = ""
            fill(self._place / "filler")
        if step == self._stop:
            self._stop = ""
            print(f"at {step}", file=sys.stderr, flush=True)
            while not self._gate.exists():
                time.sleep(0.05)


def fill(file: Path) -> None:
    try:
        with file.open("wb", buffering=0) as content:
            for _ in range(FILL_BYTES // 4096):
                content.write(bytes(4096))
    except OSError:
        return


def option(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def main(job: str, source: Path, target: Path) -> int:
    """The program that is interrupted: prints what came of it, and what is left after an error."""
    if "--margin" not in sys.argv:
        installing.MARGIN_BYTES = 0
    if "--limit" in sys.argv:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))
    if "--named" in sys.argv:
        durable._open_unnamed = lambda directory: None
    if "--old" in sys.argv:
        target.write_bytes(b"old")
    place = target if job == "install" else target.parent
    progress = Stopping(place, option("--stop"), option("--fill"), Path(option("--gate", "/")))
    sys.addaudithook(progress.hear)
    try:
        with terminated_as_exception():
            if job == "install":
                with open_bundle(source) as opened:
                    installer = Installer(store=Store(target), progress=progress, wait_s=60)
                    print(json.dumps({"outcome": installer.install(opened, force="--force" in sys.argv).outcome}))
            else:
                write_bundle(Store(source).choose(["fake"]), target, progress, licence=b"Do as you like.\n")
    except KeyboardInterrupt as error:
        return 128 + error.number if isinstance(error, Terminated) else 130
    except ApplianceError as error:
        print(error, file=sys.stderr)
        old = {"old": target.read_bytes() == b"old"} if "--old" in sys.argv else {}
        print(json.dumps({"left": left_in(place), **old}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
