"""Killed before each thing that touches the disk, a store has the old model or the new one, whole, and a repeat works.

Run as a script this file is what is killed: `FILE JOB DIRECTORY` does the job once for each step of it, in a child.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.models import writer
from appliance.models.bundle.installing import Installer
from appliance.models.bundle.reading import open_bundle
from appliance.models.fake import install_fake
from appliance.models.progress import Silent
from appliance.models.store import Store
from appliance.models.verification import verify
from tests.support.bundle import good_bundle
from tests.support.pulling import left_in

FILE_EVENTS = frozenset(
    {
        *("open", "ctypes.dlsym", "os.chmod", "os.chown", "os.link", "os.mkdir"),
        *("os.remove", "os.rename", "os.rmdir", "shutil.rmtree"),
    }
)
"""Python's audit events that come before a file or directory is made, changed or synced; dlsym before an exchange."""
LEAST_STEPS = 12
BEFORE, AFTER = b"before", b"after"


def install_from(bundle: Path, store: Path) -> None:
    with open_bundle(bundle) as opened:
        Installer(store=Store(store), progress=Silent(), wait_s=5).install(opened, force=True)


def damage(store: Path) -> None:
    (Store(store).choose(["fake"]).directory / "openvino_model.bin").write_bytes(b"damage")


def state(store: Path) -> list[tuple[bytes, bool]]:
    """Weights of the models that are there, the one that is served first, and whether they are sound."""
    entries = Store(store).entries()
    models = Store(store).list()
    assert len(models) == len(entries)
    return [
        ((model.directory / "openvino_model.bin").read_bytes(), verify(model.manifest, model.directory).sound)
        for model in models
    ]


Job = tuple[Callable[[Path], None], list[list[tuple[bytes, bool]]]]
"""What is done, and the states that may be left: before first, after last."""


def job_of(name: str, place: Path) -> Job:
    """The job, for a store that `place`/prepared is a copy of."""
    prepared = place / "prepared"
    install_fake(Store(prepared), content=BEFORE)
    bundle = good_bundle(place, content=BEFORE if "mend" in name else AFTER)
    whole, damaged = (BEFORE, True), (b"damage", False)
    if "mend" in name:
        damage(prepared)
    if name == "mend in two renames":
        writer.exchange = lambda one, other: False  # type: ignore[attr-defined] # as on NFS
        return lambda store: install_from(bundle, store), [[damaged], [], [whole]]
    return {
        "pull": (lambda store: _pull(store, AFTER), [[whole], [(AFTER, True), whole]]),
        "mend with pull": (lambda store: _pull(store, BEFORE), [[damaged], [whole]]),
        "install": (lambda store: install_from(bundle, store), [[whole], [(AFTER, True), whole]]),
        "mend with install": (lambda store: install_from(bundle, store), [[damaged], [whole]]),
        "remove": (_remove, [[whole], []]),
    }[name]


def _pull(store: Path, content: bytes) -> None:
    install_fake(Store(store), content=content)


def _remove(store: Path) -> None:
    if Store(store).list():
        Store(store).remove("fake", wait_s=5, on_wait=print)
    else:
        with Store(store).open_writer(wait_s=5, on_wait=print):
            """The next writer of any kind takes away what the killed one left."""


def killed_before(step: int, job: Callable[[], None]) -> bool:
    """Do the job in a child that is killed before its step of that number; False where it has no such step."""
    child = os.fork()
    if child == 0:
        numbers = itertools.count(1)

        def kill(event: str, _: object) -> None:
            if event in FILE_EVENTS and next(numbers) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        try:
            job()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


def main(name: str, place: Path) -> None:
    """Prints which of the states were left at which steps."""
    os.fsync = lambda _: None  # type: ignore[assignment] # of a killed process nothing that it wrote is lost
    job, states = job_of(name, place)
    seen: list[int] = []
    store = place / "store"
    shutil.copytree(place / "prepared", store)
    job(store)  # what is imported late is imported now
    for step in itertools.count(1):
        shutil.rmtree(store)
        shutil.copytree(place / "prepared", store)
        killed = killed_before(step, lambda: job(store))
        left = state(store)
        assert left in states, f"step {step} leaves {left}"
        seen.append(states.index(left))
        job(store)
        assert state(store) == states[-1], f"after step {step}"
        left_over = {*left_in(store)} - {".lock", "fake"}  # "fake" may be left, empty, where the model was removed
        assert not left_over, f"after step {step}: {left_over}"
        if not killed:
            break
    print(json.dumps(seen))


@pytest.mark.parametrize(
    "name", ["pull", "mend with pull", "install", "mend with install", "mend in two renames", "remove"]
)
def test_a_kill_at_any_step_leaves_the_old_model_or_the_new_one(tmp_path: Path, name: str) -> None:
    command = [sys.executable, __file__, name, str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert len(seen) >= LEAST_STEPS
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, max(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
