"""`appliance models use` on a daemon that is a process of its own: the control socket, and deaths at every stage."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from appliance.control.client import ControlFailed, NoDaemon, switch
from appliance.models.choosing import Choice
from appliance.models.fake import install_fake
from appliance.models.slots import Slot, read_slots, slot_of
from appliance.models.store import Installed, Store
from appliance.models.using import use_at_next_start
from appliance.models.verification import verify
from tests.support.process import Served, environment, run, serving

SLOW = b"fake:load-ms=300 fake:token-ms=10"  # so that each stage lasts


def slot(model: Installed) -> Slot:
    return slot_of(model.manifest)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One that `old` was chosen of."""
    store = Store(tmp_path / "models")
    install_fake(store, "old")
    use_at_next_start(store, ["old"], "old")
    return store


@pytest.fixture
def served(tmp_path: Path, store: Store) -> Iterator[Served]:
    with daemon(tmp_path, store) as started:
        started.wait_for("engine ready")
        yield started


def daemon(home: Path, store: Store, *before: str) -> contextlib.AbstractContextManager[Served]:
    settings: dict[str, Any] = {
        "models__directory": store.directory,
        "models__min_speed_ratio": 0,
    }  # the fake's speed is noise
    return serving(home, "--pipeline", "fake", before=before, **settings)


def control(home: Path) -> Path:
    return home / "run/appliance/control.sock"


def models(home: Path, store: Store, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(home, "models", *arguments, models__directory=store.directory)


async def status(url: str) -> dict[str, object]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/status") as response:
        shown: dict[str, object] = await response.json()
        return shown


def served_model(served: Served) -> str:
    model = asyncio.run(status(served.url))["model"]
    assert isinstance(model, dict)
    return str(model["id"])


def test_use_and_rollback_on_a_running_daemon(tmp_path: Path, store: Store, served: Served) -> None:
    old, new = store.choose(["old"]), install_fake(store, "new")
    done = models(tmp_path, store, "use", "new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{slot(new)} is served now (canary: ")
    assert done.stdout.endswith(f" tokens/s); before: {slot(old)}\n")
    assert "appliance: asking it the canary" in done.stderr.splitlines()
    assert served.wait_for("model switched")["model"] == str(slot(new))
    assert served_model(served) == "new"
    back = json.loads(models(tmp_path, store, "rollback", "--json").stdout)
    assert (back["outcome"], back["model"], back["previous"]) == ("switched", str(slot(old)), str(slot(new)))
    again = models(tmp_path, store, "use", "old")
    assert again.stdout == f"{slot(old)} is served already; before: {slot(new)}\n"


def test_a_model_that_fails_is_told_with_its_status_and_the_old_one_serves(
    tmp_path: Path, store: Store, served: Served
) -> None:
    install_fake(store, "crashes", b"fake:load-crash")
    install_fake(store, "nonsense", b"fake:nonsense")
    damaged = install_fake(store, "damaged")
    (damaged.directory / "openvino_model.bin").write_bytes(b"Weights")
    for name, exit_status, words in (
        ("crashes", 1, "exit status 71"),
        ("nonsense", 1, "the canary's answer is not what is expected"),
        ("damaged", 78, "run: appliance models pull --force damaged"),
        ("nothing", 1, "is not installed"),
    ):
        done = models(tmp_path, store, "use", name)
        assert (done.returncode, done.stdout) == (exit_status, "")
        assert words in done.stderr.splitlines()[-1]
        logged = served.wait_for("model not switched")
        assert words in logged["reason"]
        # A slip of who asked is nothing that the host's doctor should tell of.
        assert logged["level"] == ("warning" if name == "nothing" else "error")
    assert served_model(served) == "old"


def test_the_socket_is_its_owners_alone_and_goes_with_the_daemon(tmp_path: Path, served: Served) -> None:
    path = control(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == 0
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_may_ask(tmp_path: Path, served: Served) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2], control(tmp_path).parent, control(tmp_path).parent.parent):
        parent.chmod(0o755)
    os.seteuid(65_534)
    try:
        with pytest.raises(ControlFailed, match="is for its owner and root alone"):
            switch(control(tmp_path), "new", lambda _: None)
    finally:
        os.seteuid(0)


def test_a_second_daemon_does_not_take_the_socket_and_one_after_a_kill_does(
    tmp_path: Path, store: Store, served: Served
) -> None:
    install_fake(store, "new")
    with daemon(tmp_path, store) as second:
        assert "another daemon has it" in second.wait_for("no control socket")["reason"]
        second.wait_for("engine ready")
        assert models(tmp_path, store, "use", "new").returncode == 0
        assert (served_model(served), served_model(second)) == ("new", "old")
    assert control(tmp_path).exists()
    served.process.kill()
    served.process.wait()
    assert control(tmp_path).exists()
    with pytest.raises(NoDaemon):
        switch(control(tmp_path), "old", lambda _: None)
    with daemon(tmp_path, store) as third:
        third.wait_for("engine ready")
        assert models(tmp_path, store, "use", "old").returncode == 0
        assert served_model(third) == "old"


def test_a_socket_that_was_named_and_can_not_be_made_ends_the_daemon(tmp_path: Path, store: Store) -> None:
    settings = {"models__directory": store.directory, "server__control_socket": "/proc/no/control.sock"}
    done = run(tmp_path, "serve", "--port", "0", "--pipeline", "fake", **settings)
    assert done.returncode == 1
    assert "control socket /proc/no/control.sock can't be made" in done.stderr
    assert "server.control_socket" in done.stderr
    assert "Traceback" not in done.stderr


async def post(path: Path, route: str, body: bytes) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.post(f"http://appliance{route}", data=body) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 1}', b'{"model": "old", "more": 1}', b'"\xff"'])
def test_what_is_no_request_is_refused(tmp_path: Path, served: Served, body: bytes) -> None:
    code, answer = asyncio.run(post(control(tmp_path), "/v1/models/use", body))
    assert code == 400
    assert b"the body is no request" in answer
    assert asyncio.run(post(control(tmp_path), "/v1/nothing", body))[0] == 404


def test_prune_keeps_what_a_daemon_serves(tmp_path: Path, store: Store, served: Served) -> None:
    new, third = install_fake(store, "new"), install_fake(store, "third")
    install_fake(store, "fourth")
    use_behind_the_daemons_back(store, "new")
    use_behind_the_daemons_back(store, "third")
    done = json.loads(models(tmp_path, store, "prune", "--yes", "--json").stdout)
    assert sorted(done["kept"]) == sorted(str(slot(model)) for model in (store.choose(["old"]), new, third))
    assert [name.partition("@")[0] for name in done["removed"]] == ["fourth"]


def use_behind_the_daemons_back(store: Store, name: str) -> None:
    use_at_next_start(store, ["old"], name)


# ---- two at once, and deaths ---------------------------------------------------------------------------------


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
