"""Pulls that are interrupted, wait, or meet a full disk: for every kind of source alike."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.models import pull
from appliance.models.catalog import Catalog, CatalogModel
from appliance.models.children import Terminated, terminated_as_exception
from appliance.models.fake import convert_fake
from appliance.models.importers import Converted, Importer, quantizing
from appliance.models.progress import Lines, Progress
from appliance.models.pull import Puller
from appliance.models.store import Store

ROOT = Path(__file__).parents[2]
FILL_BYTES = 20_000_000  # more than any of the small file systems here has


class Slow:
    """A converter that waits for a file to appear before it begins, or fills the disk."""

    def __init__(self, gate: Path | None, fill: bool) -> None:
        self._gate = gate
        self._fill = fill

    def __call__(self, gguf: Path, directory: Path, model: CatalogModel, progress: Progress) -> Converted:
        if self._fill:
            (directory / "openvino_model.bin").write_bytes(b"\0" * FILL_BYTES)
        while self._gate is not None and not self._gate.exists():
            time.sleep(0.05)
        return convert_fake(gguf, directory, model, progress)


def left_in(store: Path) -> list[str]:
    """Names in the store."""
    return sorted(entry.name for entry in store.iterdir()) if store.exists() else []


@contextmanager
def listening_socket() -> Iterator[str]:
    """The URL of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def puller_of(
    store: Path, model: CatalogModel, importers: Mapping[str, Importer], said: list[str] | None = None
) -> Puller:
    """Pulls `model` into `store`; what it does is kept in `said`, else told on standard error."""
    return Puller(
        store=Store(store),
        catalog=Catalog({model.id: model}),
        importers=importers,
        progress=Lines(said.append if said is not None else lambda line: print(line, file=sys.stderr, flush=True)),
        wait_s=60,
    )


def program(module: str, store: Path, *flags: str) -> list[str]:
    """The command that runs `module`, which calls `run_pull`, from the checkout's root."""
    return [sys.executable, "-m", module, str(store), *flags]


def start(module: str, store: Path, *flags: str) -> "subprocess.Popen[str]":
    """A program that pulls into `store`, and says on standard error what it does."""
    command = program(module, store, *flags)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_line(process: "subprocess.Popen[str]", part: str) -> str:
    """The next line on standard error that holds `part`."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if part in line:
            return line
    raise AssertionError(f"{part!r} was never said, but: {seen}")


def pulled_by_two_at_once(module: str, store: Path, gate: Path) -> list[str]:
    """What came of two programs, of which the second begins while the first converts, and waits for it."""
    with start(module, store, "--gate", str(gate)) as first:
        wait_for_line(first, "tiny: checking")
        with start(module, store) as second:
            assert f"process {first.pid} is writing" in wait_for_line(second, "waiting")
            gate.touch()
            return [json.loads(process.communicate(timeout=60)[0])["outcome"] for process in (first, second)]


def on_small_disk(size: str, mount: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run `command` where `mount` is a file system of `size` that nothing else sees."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    prefix = [*unshare, "sh", "-c", script, "sh", size, str(mount)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode != 0:
        reason = f"no file system can be mounted here: {tried.stderr.strip() if tried else 'unshare is missing'}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run([*prefix, *command], cwd=ROOT, capture_output=True, text=True, timeout=100)


def run_pull(arguments: Sequence[str], make_puller: Callable[..., Puller]) -> int:
    """The program that is interrupted: prints what came of it, and what is left in the store after an error."""
    store = Path(arguments[0])
    gate = Path(arguments[arguments.index("--gate") + 1]) if "--gate" in arguments else None
    if "--margin" not in arguments:
        pull.MARGIN_BYTES = quantizing.MARGIN_BYTES = 0
    try:
        with terminated_as_exception():
            pulled = make_puller(store, gate=gate, fill="--fill" in arguments).pull("tiny")
    except KeyboardInterrupt as error:
        return 128 + error.number if isinstance(error, Terminated) else 130
    except ApplianceError as error:
        print(error, file=sys.stderr)
        print(json.dumps({"left": left_in(store)}))
        return 1
    print(json.dumps({"outcome": pulled.outcome}))
    return 0
