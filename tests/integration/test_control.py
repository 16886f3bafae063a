"""`appliance models use` on a daemon that is a process of its own, and who may ask its control socket."""

import asyncio
import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from appliance.control.client import ControlFailed, NoDaemon, switch
from appliance.models.fake import install_fake
from appliance.models.store import Store
from appliance.models.using import use_at_next_start
from tests.support.controlled import control, daemon, models, served_model, store_of_old
from tests.support.process import Served, run
from tests.support.switching import slot


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_of_old(tmp_path)


@pytest.fixture
def served(tmp_path: Path, store: Store) -> Iterator[Served]:
    with daemon(tmp_path, store) as started:
        started.wait_for("engine ready")
        yield started


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
