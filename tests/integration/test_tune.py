"""`appliance tune` and what `serve` and `config show` make of it, with the engine that has no model."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from appliance.cli.serve import FAKE_MODEL
from appliance.config import EngineSettings
from appliance.models.fake import install_fake
from appliance.models.progress import Silent
from appliance.models.served import served_model
from appliance.models.store import Store
from appliance.models.tuning.record import TUNABLE, Figures, host_key, read_tuning
from appliance.models.tuning.trial import measure
from appliance.models.tuning.tune import Plan, tune
from tests.support.daemon import until
from tests.support.process import environment, serving
from tests.support.tuning import record, write_record


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "appliance", *arguments]


def run(home: Path, *arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    settings = {"engine__pipeline": "fake", **settings}
    return subprocess.run(
        command(*arguments), cwd=home, env=environment(home, **settings), capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("profile", ["interactive", "throughput"])
async def test_a_worker_is_measured_and_ended(profile: str) -> None:
    figures = await measure(Path("none"), "interactive" if profile == "interactive" else "throughput",
                            EngineSettings(pipeline="fake"))  # fmt: skip
    assert min(figures.ttft_ms, figures.ms_per_token, figures.tokens_per_s) > 0
    assert psutil.Process().children() == []


def test_the_command_writes_a_choice_with_its_evidence(state: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "tune", "--profile", "throughput", "--seconds", "5", "--json", engine__threads="1")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    (written,) = read_tuning(state / "tuning.json", print)
    assert (shown["model"], shown["profile"], shown["at"]) == (written.model, "throughput", written.at)
    assert written.key == host_key("fake", FAKE_MODEL.digest)
    assert written.evidence.tried[0].changed == {}
    assert written.evidence.tried[0].figures is not None
    assert not any("threads" in tried.changed for tried in written.evidence.tried)
    assert "tuning fake (throughput): the defaults" in done.stderr


def test_a_choice_that_does_not_win_changes_nothing_but_is_written(tmp_path: Path) -> None:
    async def same(_: EngineSettings) -> Figures:
        return Figures(ttft_ms=100, ms_per_token=10, tokens_per_s=50)

    engine = EngineSettings(pipeline="fake")
    plan = Plan(
        engine=engine, explicit=(), model=FAKE_MODEL, profile="interactive", seconds=60,
        file=tmp_path / "state/tuning.json",
    )  # fmt: skip
    tuned = tune(plan, Silent(), same)
    assert (tuned.settings, tuned.evidence.why) == ({}, "nothing that was tried was faster")
    assert read_tuning(plan.file, print) == (tuned,)


def test_a_value_for_which_memory_is_not_free_is_passed_over_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.models.tuning.trial.room_beside", lambda load: load.kv_cache_precision != "f16")
    explicit = [f"engine.{name}" for name in TUNABLE if name != "kv_cache_precision"]
    plan = Plan(
        engine=EngineSettings(pipeline="fake"), explicit=explicit, model=FAKE_MODEL, profile="interactive", seconds=60,
        file=tmp_path / "state/tuning.json",
    )  # fmt: skip
    tuned = tune(plan, Silent())
    default, wider = tuned.evidence.tried
    assert default.figures is not None
    assert (wider.changed, wider.figures) == ({"kv_cache_precision": "f16"}, None)
    assert "not enough free memory" in (wider.error or "")
    assert tuned.settings == {}


def test_a_value_that_this_machine_could_not_serve_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KV cache that is measured with is small: the daemon's is what has to fit."""
    asked: list[str] = []

    async def same(settings: EngineSettings) -> Figures:
        asked.append(settings.kv_cache_precision)
        return Figures(ttft_ms=100, ms_per_token=10, tokens_per_s=50)

    model = served_model(install_fake(Store(tmp_path / "store")))
    ir = Path(model.directory) / "openvino_model.xml"
    ir.write_text('variable_id="past_key_values.0.key" x variable_shape="?,8,?,64"')
    engine = EngineSettings(kv_cache_tokens=100_000)  # 77 MiB as u8, 98 MiB as f16, beside 321
    monkeypatch.setattr("appliance.models.served.memory_limit_bytes", lambda: 430 << 20)
    plan = Plan(
        engine=engine, explicit=[f"engine.{name}" for name in TUNABLE if name != "kv_cache_precision"], model=model,
        profile="interactive", seconds=60, file=tmp_path / "state/tuning.json",
    )  # fmt: skip
    tuned = tune(plan, Silent(), same)
    assert asked == ["auto"]
    assert "serving takes" in (tuned.evidence.tried[1].error or "")


def test_an_unknown_profile_is_wrong_usage(state: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "tune", "--profile", "fastest")
    assert done.returncode == 2
    assert "interactive, throughput" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_tuning_leaves_no_worker_and_no_file(
    number: signal.Signals, state: Path, tmp_path: Path
) -> None:
    variables = environment(tmp_path, engine__pipeline="fake")
    with _started(tmp_path, variables) as process:
        children: list[psutil.Process] = []

        def started() -> bool:
            children[:] = psutil.Process(process.pid).children()
            return bool(children)

        await until(started)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait(30) == (130 if number == signal.SIGINT else 128 + number)
    assert said.endswith("appliance: interrupted; nothing has changed\n"), said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert _names(state) == [".tuning.lock"]


def _started(home: Path, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command("tune"), cwd=home, env=variables, stderr=subprocess.PIPE)


def _names(directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir()]


def test_a_second_tuning_at_the_same_time_is_refused(state: Path, tmp_path: Path) -> None:
    import fcntl

    state.mkdir()
    with (state / ".tuning.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(tmp_path, "tune")
    assert done.returncode != 0
    assert ".tuning.lock is still held by" in done.stderr


def engine_status(url: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/v1/status", timeout=10) as answer:  # noqa: S310 # http, of our own daemon
        status: dict[str, object] = json.load(answer)["engine"]
    return status


def test_serve_uses_the_choice_and_says_so(state: Path, tmp_path: Path) -> None:
    write_record(state, record(max_num_batched_tokens=96, cpu_pinning="off"))
    with serving(tmp_path, engine__pipeline="fake", engine__cpu_pinning="on") as daemon:
        used = daemon.wait_for("host tuning used")
        assert used["max_num_batched_tokens"] == 96
        assert "cpu_pinning" not in used
        daemon.worker_pid()
        status = engine_status(daemon.url)
    settings, tuned = status["settings"], status["tuned"]
    assert isinstance(settings, dict)
    assert isinstance(tuned, dict)
    assert (settings["max_num_batched_tokens"], settings["cpu_pinning"]) == (96, "on")
    assert tuned["settings"] == {"max_num_batched_tokens": 96}
    assert (tuned["profile"], tuned["why"]) == ("interactive", "faster")


def test_a_choice_of_another_host_is_left_aside_in_the_log(state: Path, tmp_path: Path) -> None:
    import msgspec

    key = msgspec.structs.replace(host_key("fake", FAKE_MODEL.digest), cpu_model="Another")
    write_record(state, record(key, threads=1))
    with serving(tmp_path, engine__pipeline="fake") as daemon:
        aside = daemon.wait_for("host tuning left aside")
        assert aside["reason"] == "measured with another CPU (Another); run: appliance tune"
        assert engine_status(daemon.url)["tuned"] is None


def test_a_damaged_file_is_left_aside_with_one_line(state: Path, tmp_path: Path) -> None:
    state.mkdir()
    (state / "tuning.json").write_text("{")
    with serving(tmp_path, engine__pipeline="fake") as daemon:
        daemon.worker_pid()
        assert engine_status(daemon.url)["tuned"] is None
    (line,) = [line for line in daemon.plain if "tuning.json" in line]
    assert line.startswith(f"appliance: warning: {state}/tuning.json is of no use (")


def test_config_show_tells_what_was_tuned(state: Path, tmp_path: Path) -> None:
    write_record(state, record(max_num_batched_tokens=96, cpu_pinning="off"))
    done = run(tmp_path, "config", "show", "--json", engine__cpu_pinning="on")
    assert (done.returncode, done.stderr) == (0, "")
    engine = json.loads(done.stdout)["settings"]["engine"]
    assert engine["max_num_batched_tokens"] == {"value": 96, "origin": "tuned"}
    assert engine["cpu_pinning"] == {"value": "on", "origin": "environment APPLIANCE__ENGINE__CPU_PINNING"}
    assert engine["threads"]["origin"] == "default"
    assert os.environ["STATE_DIRECTORY"] == str(state)
