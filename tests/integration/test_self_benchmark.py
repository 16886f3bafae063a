"""`appliance bench --self` as its timer runs it: a process of its own against a daemon with the fake engine."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from appliance.bench.errors import GaveWay, ServerUnreadable
from appliance.bench.progress import LineProgress
from appliance.bench.self_benchmark import measure_self
from appliance.observability.self_benchmark import read_history
from tests.support.daemon import Appliance, running, settings, until
from tests.support.process import environment, run_beside
from tests.support.self_benchmark import measured, write_history

WAIT_S = 60.0  # a bound for a test that fails


async def bench_self(home: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    variables = environment(home) | {"STATE_DIRECTORY": str(home / "state")}
    return await run_beside([sys.executable, "-P", "-m", "appliance", "bench", "--self", *arguments], variables)


async def test_each_measurement_is_kept_and_compared_with_those_before(appliance: Appliance, tmp_path: Path) -> None:
    status, out, err = await bench_self(tmp_path, "--url", appliance.url)
    assert status == 0, err
    assert "no baseline yet" in out
    directory = tmp_path / "state/benchmarks"
    (first,) = read_history(directory, print)
    assert (first.fingerprint.model, first.fingerprint.pipeline, first.requests) == ("fake", "fake", 5)
    assert first.tokens == 5 * 64
    assert first.figures.tokens_per_s > 0

    write_history(  # made up: a host that was a hundred times faster
        directory, *(measured(day, first.figures.tokens_per_s * 100, fingerprint=first.fingerprint) for day in range(3))
    )
    status, _, err = await bench_self(tmp_path, "--url", appliance.url)
    assert status == 3
    assert "this host is slower than it was" in err
    last = read_history(directory, print)[-1]
    assert last.verdict.regression
    assert last.verdict.of == 4
    assert await appliance.metric("appliance_websocket_connections") == 0


async def test_it_gives_way_where_a_client_is_answered(appliance: Appliance, tmp_path: Path) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "on fake:step-ms=5", params={"max_tokens": 4000})
        await peer.until("started")
        status, out, err = await bench_self(tmp_path, "--url", appliance.url)
    assert (status, out) == (75, "")
    assert "clients are active" in err
    assert not (tmp_path / "state/benchmarks").exists()


async def test_it_gives_way_where_a_client_comes(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.bench.self_benchmark.WATCH_S", 0.01)
    monkeypatch.setattr("appliance.bench.self_benchmark.OUTPUT_TOKENS", 4000)  # else it is over before anybody comes
    async with appliance.connect() as peer:
        measuring = asyncio.create_task(measure_self(appliance.url, LineProgress()))
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        await peer.chat("r1", "on fake:step-ms=5", params={"max_tokens": 4000})
        with pytest.raises(GaveWay, match="clients are active"):
            await measuring
        await until(lambda: appliance.daemon.dispatcher.running == 1)  # the client's


async def test_it_keeps_nothing_where_somebody_was_answered_meanwhile(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.bench.self_benchmark.WATCH_S", 1000.0)  # nobody looks
    async with appliance.connect() as peer:
        measuring = asyncio.create_task(measure_self(appliance.url, LineProgress()))
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        await peer.chat("r1", "two words", params={"max_tokens": 1})
        await peer.until("done")
        with pytest.raises(GaveWay, match="another client was answered"):
            await measuring


async def test_it_gives_way_to_a_daemon_that_is_not_ready() -> None:
    async with running(settings()) as appliance:
        await appliance.ready()
        await appliance.daemon.dispatcher.drain(WAIT_S)
        with pytest.raises(GaveWay, match="not ready"):
            await measure_self(appliance.url, LineProgress())


async def test_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreadable, match="another machine"):
        await measure_self("http://192.0.2.1:8080", LineProgress())


async def test_without_a_daemon_one_line_says_what_to_do(tmp_path: Path) -> None:
    status, out, err = await bench_self(tmp_path, "--url", "http://127.0.0.1:1")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "appliance serve" in err


@pytest.mark.parametrize("option", ["--seed=1", "--concurrency=1", "--json=a.json", "--compare"])
async def test_what_is_measured_cannot_be_chosen(tmp_path: Path, option: str) -> None:
    arguments = [option, "a", "b"] if option == "--compare" else [option]
    status, _, err = await bench_self(tmp_path, *arguments)
    assert status == 2
    assert "leave" in err


async def test_the_file_is_plain_json(appliance: Appliance, tmp_path: Path) -> None:
    status, _, err = await bench_self(tmp_path, "--url", appliance.url)
    assert status == 0, err
    (file,) = (tmp_path / "state/benchmarks").iterdir()
    found = json.loads(file.read_text())
    assert (found["schema"], found["schema_version"]) == ("appliance-self-benchmark", 1)
    assert found["verdict"]["regression"] is False
