"""`appliance models use` where no daemon runs: the model is tried in a worker of its own before it becomes current."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from appliance.cli import app
from appliance.errors import ConfigError
from appliance.models.errors import NotSwitched
from appliance.models.fake import install_fake
from appliance.models.slots import read_slots, slot_of
from appliance.models.store import Store
from tests.support.daemon import until


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """With the model `old`, which a start would serve."""
    for name, value in {
        "MODELS__DIRECTORY": tmp_path / "store", "MODELS__PREFERRED": "old",
        "SERVER__CONTROL_SOCKET": tmp_path / "control.sock", "ENGINE__PIPELINE": "fake",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"APPLIANCE__{name}", str(value))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    store = Store(tmp_path / "store")
    install_fake(store, "old")
    return store


def models(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def started(model_id: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", "appliance", "models", "use", model_id]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_the_canary_is_asked_and_its_speed_kept(store: Store) -> None:
    new = slot_of(install_fake(store, "new").manifest)
    done = models("use", "new", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["outcome"], told["model"], told["canary"]) == ("next_start", str(new), True)
    slots = read_slots(store.directory)
    assert slots.current == new
    assert slots.measured is not None
    assert slots.measured.slot == new
    assert slots.measured.tokens_per_s == pytest.approx(told["tokens_per_s"], abs=0.1)
    assert psutil.Process().children() == []
    back = models("rollback")
    assert "; canary: " in back.stdout
    assert back.stderr == "appliance: loading and warming it, and asking it the canary\n"


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (b"fake:nonsense", "not what is expected, it says the same over and over"),
        (b"fake:load-crash", "the worker did not get ready: the worker ended"),
    ],
)
def test_a_model_that_does_not_do_well_does_not_become_current(store: Store, weights: bytes, said: str) -> None:
    install_fake(store, "new", weights)
    done = models("use", "new")
    assert isinstance(done.exception, NotSwitched)
    assert said in str(done.exception)
    assert not (store.directory / "slots.json").exists()
    assert psutil.Process().children() == []
    assert models("use", "new", "--no-canary").exit_code == 0  # whoever knows better
    assert read_slots(store.directory).current is not None


def test_one_slower_than_the_last_good_one_does_not_become_current(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake(store, "new", b"fake:token-ms=1")
    install_fake(store, "slow", b"fake:token-ms=200")
    assert models("use", "new").exit_code == 0
    before = read_slots(store.directory)
    done = models("use", "slow")
    assert isinstance(done.exception, NotSwitched)
    assert "(models.min_speed_ratio)" in str(done.exception)
    assert read_slots(store.directory) == before


def test_one_that_does_not_get_ready_in_time_is_ended(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake(store, "new", b"fake:load-ms=60000")
    monkeypatch.setenv("APPLIANCE__ENGINE__LOAD_TIMEOUT_S", "1")
    assert "not ready within 1 s (engine.load_timeout_s)" in str(models("use", "new").exception)
    assert psutil.Process().children() == []


def test_a_store_that_can_not_be_written_is_told_before_a_worker_is_started(store: Store) -> None:
    install_fake(store, "new", b"fake:load-crash")
    (store.directory / ".slots.lock").mkdir()
    done = models("use", "new")
    assert isinstance(done.exception, ConfigError)
    assert "can't be written" in str(done.exception)


async def test_an_interruption_leaves_no_worker_and_changes_nothing(store: Store) -> None:
    install_fake(store, "new", b"fake:load-ms=60000")
    with started("new") as process:
        children: list[psutil.Process] = []

        def has_worker() -> bool:
            children[:] = psutil.Process(process.pid).children()
            return bool(children)

        await until(has_worker)
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    assert said.endswith("appliance: interrupted; nothing has changed\n"), said
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not (store.directory / "slots.json").exists()
