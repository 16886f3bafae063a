"""Every way in which a file can come in pieces, wrong, for ever, or to a machine that has no room for it."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from appliance.models.catalog import CatalogModel
from appliance.models.downloads import KEPT_S
from appliance.models.errors import DiskFull, ImportFailed, ModelError
from appliance.models.importers import Converted
from appliance.models.importers.fetching import F16_BYTES
from appliance.models.importers.quantizing import conversion_bytes
from appliance.models.progress import Progress
from appliance.models.store import Store
from tests.support.hub import FILE_NAME, SHA256, WEIGHTS, Hub
from tests.support.hub_answers import endless, fails, silence, trickle
from tests.support.hub_pull import HALF, PROGRAM, break_off, failure, make_puller, tiny_model, wait_for_bytes
from tests.support.pulling import left_in, on_small_disk, program, pulled_by_two_at_once, start, wait_for_line

LATE_S = 4.0


def test_a_file_below_a_directory_is_found(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"gguf/q8/tiny.gguf": WEIGHTS}
    assert make_puller(tmp_path / "store", tiny_model(file="gguf/q8/tiny.gguf")).pull("tiny").outcome == "installed"
    assert left_in(tmp_path / "store") == [".lock", "tiny"]


def test_the_newer_kind_of_storage_is_asked_over_http(hub: Hub, tmp_path: Path) -> None:
    hub.xet = True
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert hub.steps() == ["api", "head", "get", "file"]


def test_an_address_that_has_expired_is_asked_for_anew(hub: Hub, tmp_path: Path) -> None:
    hub.will("file", hub.cut(HALF), fails(403))
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert hub.steps() == ["api", "head", "file", "head", "file", "head", "file"]


def test_a_store_that_knows_no_ranges_begins_anew(hub: Hub, tmp_path: Path) -> None:
    hub.knows_ranges = False
    hub.will("file", hub.cut(HALF))
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert hub.ranges() == ["", f"bytes={HALF}-"]


def test_a_connection_that_always_breaks_ends(hub: Hub, tmp_path: Path) -> None:
    hub.will("file", hub.cut(HALF), hub.cut(0), for_ever=True)
    line = failure(tmp_path / "store")
    assert "breaks off again and again (peer closed connection" in line
    assert line.endswith("; what came is kept: run it again to go on")
    assert hub.ranges() == ["", *[f"bytes={HALF}-"] * 5]


def test_a_trickle_ends_with_the_time_and_what_came_is_kept(hub: Hub, tmp_path: Path) -> None:
    hub.will("file", hub.cut(HALF), trickle)
    line = failure(tmp_path / "store", download_timeout_s=6)
    assert "within 6 s (models.download_timeout_s); what came is kept: run it again to go on" in line
    assert left_in(tmp_path / "store") == [".downloads", ".lock"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_body_without_end_is_cut_at_the_size_that_was_announced(hub: Hub, tmp_path: Path, begun: bool) -> None:
    hub.will("file", *([hub.cut(HALF)] if begun else []), endless)
    assert "the hub sends more than the 1,000,000 bytes that it announced" in failure(tmp_path / "store")
    assert left_in(tmp_path / "store") == [".lock"]


def test_a_file_that_is_shorter_than_announced_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.size_bytes = len(WEIGHTS) + 1
    assert f"has fewer bytes of {FILE_NAME} than it announced" in failure(tmp_path / "store")
    assert left_in(tmp_path / "store") == [".lock"]


def test_a_file_that_is_larger_than_any_such_model_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.size_bytes = 100_000_000
    assert "100,000,000 bytes, more than a model of the catalog's parameters can have" in failure(tmp_path / "store")
    assert "file" not in hub.steps()


@pytest.mark.parametrize(
    ("source", "said"),
    [({"sha256": "1" * 64}, f"sha256 {SHA256}, expected {'1' * 64}"), ({"size_bytes": 7}, "size 1000000, expected 7")],
)
def test_another_file_than_the_catalog_names_is_not_fetched(
    hub: Hub, tmp_path: Path, source: dict[str, str], said: str
) -> None:
    line = failure(tmp_path / "store", tiny_model(**source))
    assert f"has another {FILE_NAME} than the catalog: {said}; nothing was downloaded: pin the revision" in line
    assert "file" not in hub.steps()


def test_a_kept_part_that_is_damaged_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    break_off(hub, tmp_path / "store").write_bytes(bytes(HALF))
    said: list[str] = []
    assert make_puller(tmp_path / "store", said=said).pull("tiny").outcome == "installed"
    assert "tiny: the kept part of the download was damaged; beginning anew" in said
    assert hub.ranges() == [f"bytes={HALF}-", ""]


@pytest.mark.parametrize("size", [len(WEIGHTS) + 5, len(WEIGHTS)])
def test_a_kept_part_as_long_as_the_file_or_longer_is_no_trouble(hub: Hub, tmp_path: Path, size: int) -> None:
    break_off(hub, tmp_path / "store").write_bytes((WEIGHTS + b"extra")[:size])
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"


def test_a_part_of_a_file_that_has_changed_is_removed(hub: Hub, tmp_path: Path) -> None:
    break_off(hub, tmp_path / "store")
    hub.files = {FILE_NAME: WEIGHTS[::-1]}
    manifest = make_puller(tmp_path / "store").pull("tiny").model.manifest
    assert manifest.source.sha256 == hashlib.sha256(WEIGHTS[::-1]).hexdigest()
    assert hub.ranges() == [""]


def test_a_conversion_that_fails_keeps_the_file_for_the_next(hub: Hub, tmp_path: Path) -> None:
    def fail(gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
        raise ImportFailed("tiny: the conversion failed: no such luck")

    with pytest.raises(ModelError, match="no such luck"):
        make_puller(tmp_path / "store", convert=fail).pull("tiny")
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert len(hub.ranges()) == 1
    assert left_in(tmp_path / "store") == [".lock", "tiny"]


def test_a_file_is_kept_until_its_model_is_installed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ImportFailed("tiny: no such luck")

    with monkeypatch.context() as patched:
        patched.setattr("appliance.models.pull.compose_manifest", fail)
        with pytest.raises(ModelError, match="no such luck"):
            make_puller(tmp_path / "store").pull("tiny")
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert len(hub.ranges()) == 1
    assert left_in(tmp_path / "store") == [".lock", "tiny"]


def test_a_hub_that_has_answered_gets_its_time_anew_for_the_first_byte(hub: Hub, tmp_path: Path) -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(LATE_S)
        return await hub.api(request)

    async def later(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(LATE_S)
        return await hub.file(request)

    hub.will("api", late)
    hub.will("file", later)
    assert make_puller(tmp_path / "store", source_timeout_s=2 * LATE_S).pull("tiny").outcome == "installed"


def test_a_file_that_leaves_no_room_for_its_conversion_is_not_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = conversion_bytes(F16_BYTES * tiny_model().parameters)
    free = shutil.disk_usage(tmp_path)._replace(free=enough + len(WEIGHTS) - 1)
    monkeypatch.setattr("appliance.models.importers.quantizing.shutil.disk_usage", lambda _: free)
    hub.will("head", silence)  # the client may get that far before it is ended
    with pytest.raises(DiskFull, match="needs about 66 MB, has 65 MB"):
        make_puller(tmp_path / "store").pull("tiny")
    assert "file" not in hub.steps()
    assert left_in(tmp_path / "store") == [".lock"]


def test_a_download_that_nobody_went_on_with_is_removed_by_the_next_writer(hub: Hub, tmp_path: Path) -> None:
    store = tmp_path / "store"
    left = break_off(hub, store)
    with Store(store).open_writer(wait_s=1, on_wait=print):
        assert left.exists()
    long_ago = time.time() - KEPT_S - 60
    for path in (store / ".downloads/tiny", *(store / ".downloads/tiny").rglob("*")):
        os.utime(path, (long_ago, long_ago))
    with Store(store).open_writer(wait_s=1, on_wait=print):
        assert left_in(store) == [".lock"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_downloading_ends_everything_and_the_next_pull_goes_on(
    hub: Hub, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    hub.go_on.clear()
    with start(PROGRAM, tmp_path / "store") as process:
        wait_for_line(process, "tiny: downloading")
        wait_for_bytes(tmp_path / "store")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == status
    assert len(children) == 1
    assert [child for child in children if child.is_running()] == []
    assert left_in(tmp_path / "store") == [".downloads", ".lock"]
    hub.go_on.set()
    assert make_puller(tmp_path / "store").pull("tiny").outcome == "installed"
    assert left_in(tmp_path / "store") == [".lock", "tiny"]


def test_of_two_pulls_at_once_the_second_finds_the_model_installed(hub: Hub, tmp_path: Path) -> None:
    outcomes = pulled_by_two_at_once(PROGRAM, tmp_path / "store", tmp_path / "gate")
    assert outcomes == ["installed", "present"]
    assert hub.steps() == ["api", "head", "file"]


@pytest.mark.parametrize(
    ("size", "flags", "said", "files"),
    [
        ("700k", [], "needs about 2 MB, has 0 MB", 0),  # the hub says how long it is
        ("6m", ["--fill"], "needs more than the", 1),  # the IR does not fit
        ("6m", ["--margin"], "needs about 64 MB, has 6 MB", 0),  # known before the hub is asked
    ],
)
def test_a_full_disk_is_told(hub: Hub, tmp_path: Path, size: str, flags: list[str], said: str, files: int) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    ended = on_small_disk(size, store, program(PROGRAM, store, *flags))
    assert ended.returncode == 1, ended.stderr
    assert f"disk full: {store}" in ended.stderr
    assert said in ended.stderr
    kept = [".downloads"] if files else []  # the file came whole
    assert json.loads(ended.stdout) == {"left": [*kept, ".lock"]}
    assert hub.steps().count("file") == files


def test_a_disk_that_fills_up_while_downloading_is_told_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    store, full = tmp_path / "disk", tmp_path / "full"
    store.mkdir()
    hub.go_on.clear()

    def go_on_when_full() -> None:
        while not full.exists():
            time.sleep(0.01)
        hub.go_on.set()

    waiting = threading.Thread(target=go_on_when_full)
    waiting.start()
    try:
        ended = on_small_disk("2m", store, program(PROGRAM, store, "--crowd", str(full)))
    finally:
        full.touch()
        waiting.join()
    assert ended.returncode == 1, ended.stderr
    assert f"disk full: {store} needs about 2 MB, has 0 MB" in ended.stderr
    assert json.loads(ended.stdout) == {"left": [".lock", "crowd"]}


def test_a_store_that_cannot_be_written_is_told_before_the_hub_is_asked(hub: Hub, tmp_path: Path) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    ended = on_small_disk("1m,ro", store, program(PROGRAM, store))
    assert ended.returncode == 1, ended.stderr
    assert f"the model store {store} can't be written: Read-only file system; run the command as" in ended.stderr
    assert hub.asked == []
