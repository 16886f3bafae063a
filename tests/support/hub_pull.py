"""Pulls out of the hub on this host, with a converter that needs no engine.

As a program (`python -m tests.support.hub_pull STORE`) it is what is interrupted.
"""

import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from appliance.models.catalog import CatalogModel, HubSource
from appliance.models.errors import ModelError
from appliance.models.fake import FakeImporter, fake_model
from appliance.models.hub.client import CHUNK_BYTES
from appliance.models.importers import Converter, Importer
from appliance.models.importers.fetching import HubFetcher
from appliance.models.importers.hub import HubImporter
from appliance.models.pull import Puller
from appliance.models.store import Store
from tests.support.hub import FILE_NAME, REPOSITORY, Hub
from tests.support.hub_answers import WAIT_S, fails
from tests.support.pulling import Slow, left_in, puller_of, run_pull

PROGRAM = "tests.support.hub_pull"
SECRET = "hf_secretsecretsecret"  # noqa: S105 # is looked for where it must not be
HALF = 2 * CHUNK_BYTES  # whole chunks are what survives a cut


def tiny_model(**source: str | int) -> CatalogModel:
    """The model of the hub's one repository."""
    named = {"repository": REPOSITORY, "file": FILE_NAME, "quantization": "Q8_0", **source}
    return fake_model("tiny", HubSource(**named))  # type: ignore[arg-type] # names and types are the struct's


def make_puller(
    store: Path,
    model: CatalogModel | None = None,
    *,
    said: list[str] | None = None,
    gate: Path | None = None,
    fill: bool = False,
    source_timeout_s: float = 30.0,
    download_timeout_s: float = 60.0,
    convert: Converter | None = None,
) -> Puller:
    fetcher = HubFetcher(store=store, source_timeout_s=source_timeout_s, download_timeout_s=download_timeout_s)
    importers: dict[str, Importer] = {
        "hub": HubImporter(convert or Slow(gate, fill), fetcher),
        "wheel": FakeImporter(),
    }
    return puller_of(store, model or tiny_model(), importers, said)


def failure(store: Path, model: CatalogModel | None = None, **arguments: float) -> str:
    """The one line in which the pull fails; it leaves nothing but what a next one goes on with."""
    with pytest.raises(ModelError) as caught:
        make_puller(store, model, **arguments).pull("tiny")  # type: ignore[arg-type] # times only
    line = str(caught.value)
    assert line.startswith("tiny: ")
    assert "\n" not in line
    assert SECRET not in line
    assert Store(store).entries() == []
    assert [name for name in left_in(store) if name.startswith(".staging")] == []
    assert psutil.Process().children(recursive=True) == []
    return line


def part(store: Path) -> Path:
    """What came of a broken download."""
    return next((store / ".downloads/tiny").rglob("*.incomplete"))


def wait_for_bytes(store: Path) -> None:
    """Return when a chunk of the download that goes on is on the disk."""
    deadline = time.monotonic() + WAIT_S
    while not any(path.stat().st_size >= CHUNK_BYTES for path in (store / ".downloads").rglob("*.incomplete")):
        assert time.monotonic() < deadline, "no byte came"
        time.sleep(0.01)


def break_off(hub: Hub, store: Path) -> Path:
    """A broken download; returns the part that came."""
    hub.will("file", hub.cut(HALF))
    hub.will("head", hub.resolve, fails(404, "EntryNotFound"))
    failure(store)
    hub.asked.clear()
    return part(store)


def crowd(store: Path, told: Path) -> None:
    """Take all room in `store` once something of a download is there, and tell so by making `told`."""
    while not any(path.stat().st_size for path in store.rglob("*.incomplete")):
        time.sleep(0.01)
    try:
        with (store / "crowd").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        told.touch()


def main(arguments: list[str]) -> int:
    """The program that is interrupted."""
    if "--crowd" in arguments:
        told = Path(arguments[arguments.index("--crowd") + 1])
        threading.Thread(target=crowd, args=(Path(arguments[0]), told), daemon=True).start()
    return run_pull(arguments, make_puller)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
