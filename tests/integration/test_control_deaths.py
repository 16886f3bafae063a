"""A change of the model that meets another, or in whose middle somebody dies or the disk is full: one model serves."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.control.client import ControlFailed, switch
from appliance.models.choosing import Choice
from appliance.models.fake import install_fake
from appliance.models.slots import read_slots
from appliance.models.store import Store
from appliance.models.verification import verify
from tests.support.controlled import control, daemon, models, served_model, store_of_old
from tests.support.process import Served, environment
from tests.support.switching import slot

SLOW = b"fake:load-ms=300 fake:token-ms=10"  # so that each stage lasts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_of_old(tmp_path)


@pytest.fixture
def served(tmp_path: Path, store: Store) -> Iterator[Served]:
    with daemon(tmp_path, store) as started:
        started.wait_for("engine ready")
        yield started


def test_a_second_process_that_wants_another_model_meanwhile_is_told_to_wait(
    tmp_path: Path, store: Store, served: Served
) -> None:
    new, third = install_fake(store, "new", SLOW), install_fake(store, "third", SLOW)
    second: list[subprocess.CompletedProcess[str]] = []

    def on_stage(stage: str) -> None:
        if stage == "loading":
            second.append(models(tmp_path, store, "use", "third"))

    switch(control(tmp_path), "new", on_stage)
    (done,) = second
    if done.returncode == 0:  # it came when the first had ended
        assert served_model(served) == "third"
        assert read_slots(store.directory).current == slot(third)
    else:
        assert (done.returncode, "another change of the model is under way" in done.stderr) == (1, True)
        assert served_model(served) == "new"
        assert read_slots(store.directory).current == slot(new)


@pytest.mark.parametrize("stage", ["resolving", "verifying", "loading", "asking", "switching"])
def test_a_daemon_killed_at_any_stage_of_a_change_serves_one_or_the_other_again(
    tmp_path: Path, store: Store, stage: str
) -> None:
    old, new = store.choose(["old"]), install_fake(store, "new", SLOW)
    with daemon(tmp_path, store) as served:
        served.wait_for("engine ready")

        def on_stage(reached: str) -> None:
            if reached == stage:
                served.process.kill()

        with pytest.raises(ControlFailed, match="ended, or did not answer to the end"):
            switch(control(tmp_path), "new", on_stage)
        served.process.wait()
    current = read_slots(store.directory).current
    assert current in ({slot(old), slot(new)} if stage == "switching" else {slot(old)})
    chosen = Choice(store, ["old"]).first(lambda _: None)
    assert slot(chosen) == current
    assert verify(chosen.manifest, chosen.directory).sound
    with daemon(tmp_path, store) as again:
        again.wait_for("engine ready")
        assert served_model(again) == chosen.id


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_whoever_asked_may_die_and_the_change_goes_on(
    tmp_path: Path, store: Store, served: Served, number: signal.Signals
) -> None:
    new = install_fake(store, "new", SLOW)
    command = [sys.executable, "-u", "-m", "appliance", "models", "use", "new"]
    asking = subprocess.Popen(
        command, env=environment(tmp_path, models__directory=store.directory), stderr=subprocess.PIPE, text=True
    )
    assert asking.stderr is not None
    for line in asking.stderr:
        if "loading" in line:
            break
    asking.send_signal(number)
    rest = asking.communicate()[1]
    if number == signal.SIGINT:
        assert asking.returncode == 130
        assert "the daemon goes on with it" in rest
    assert served.wait_for("model switched")["model"] == str(slot(new))
    assert served_model(served) == "new"


@pytest.mark.parametrize("stage", ["loading", "asking"])
def test_a_daemon_that_is_stopped_in_the_middle_ends_well_and_says_so(tmp_path: Path, store: Store, stage: str) -> None:
    install_fake(store, "new", b"fake:load-ms=1000 fake:token-ms=100")
    old = store.choose(["old"])
    with daemon(tmp_path, store) as served:
        served.wait_for("engine ready")
        failed: list[Exception] = []

        def ask() -> None:
            try:
                switch(control(tmp_path), "new", lambda reached: stop() if reached == stage else None)
            except ControlFailed as error:
                failed.append(error)

        def stop() -> None:
            served.process.send_signal(signal.SIGTERM)

        asking = threading.Thread(target=ask)
        asking.start()
        assert served.end() == 0
        asking.join(10)
        assert len(failed) == 1
    assert read_slots(store.directory).current == slot(old)
    assert not control(tmp_path).exists()


def test_a_full_disk_at_the_end_leaves_the_old_model_serving(tmp_path: Path, store: Store) -> None:
    install_fake(store, "new")
    with daemon(tmp_path, store, "prlimit", "--fsize=64:64") as served:
        served.wait_for("engine ready")
        done = models(tmp_path, store, "use", "new")
        assert done.returncode == 78
        assert "can't be written: File too large" in done.stderr
        assert served_model(served) == "old"
        assert read_slots(store.directory).current == slot(store.choose(["old"]))


def test_a_store_on_a_read_only_file_system_serves_and_does_not_change(tmp_path: Path, store: Store) -> None:
    install_fake(store, "new")
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    mounted = ["unshare", "--mount", "sh", "-c", script, "sh", str(store.directory)]
    if os.geteuid() != 0 or subprocess.run([*mounted, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs a mount namespace")
    with daemon(tmp_path, store, *mounted) as served:
        served.wait_for("engine ready")
        done = models(tmp_path, store, "use", "new")
        assert done.returncode == 78
        assert "can't be written: Read-only file system" in done.stderr
        assert served_model(served) == "old"
