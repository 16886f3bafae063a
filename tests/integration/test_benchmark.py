"""The benchmark's processes: servers that come up, or don't; the daemon as a contender."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from appliance.bench.workload import Workload
from benchmarks.cells import DAEMON
from benchmarks.contenders import Appliance, open_daemon
from benchmarks.errors import BenchmarkError
from benchmarks.memory import run_memory
from benchmarks.prefills import run_prefill
from benchmarks.processes import free_port, serving

WORKLOAD = Workload(kind="free", prompt_tokens=40, output_tokens=8, seed=1)


def command(program: str) -> list[str | Path]:
    return [sys.executable, "-c", program]


async def test_a_server_runs_for_as_long_as_the_block(tmp_path: Path) -> None:
    port = free_port()
    async with serving(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", tmp_path],
        port=port,
        health_path="/",
        environment=os.environ,
        log=tmp_path / "log",
        timeout_s=30,
    ) as child:
        assert psutil.pid_exists(child.pid)
        assert child.url == f"http://127.0.0.1:{port}"
    assert not psutil.pid_exists(child.pid)


async def test_a_server_that_ends_early_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"(?s)status 3.*out of luck"):
        async with serving(
            command("print('out of luck', flush=True); raise SystemExit(3)"),
            port=free_port(),
            health_path="/",
            environment=os.environ,
            log=tmp_path / "log",
            timeout_s=30,
        ):
            pytest.fail("it never was healthy")


async def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(600)"
    with pytest.raises(BenchmarkError, match="not ready after 2 s"):
        async with serving(
            command(program),
            port=free_port(),
            health_path="/",
            environment=os.environ,
            log=tmp_path / "log",
            timeout_s=2,
        ):
            pytest.fail("it never was healthy")
    assert not psutil.pid_exists(int(note.read_text()))


async def test_the_daemon_is_measured_over_its_socket(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "store", "fake", tmp_path, {"engine.pipeline": "fake"})
    async with open_daemon(appliance, tmp_path / "log") as daemon:
        level, samples = await daemon.measure(WORKLOAD, 3, 2)
        memory = daemon.resident_bytes
    assert (daemon.name, level.requests, level.failed) == (DAEMON, 6, 0)
    assert {sample.tokens for sample in samples} == {8}
    assert all(sample.prompt_tokens for sample in samples)
    assert daemon.front is not None
    assert daemon.front.rss_bytes > 0
    assert set(memory) == {"front", "worker"}
    assert all(memory.values())


async def test_memory_is_read_after_prompts_as_long_as_the_cache(tmp_path: Path) -> None:
    said: list[str] = []
    appliance = Appliance(tmp_path / "store", "fake", tmp_path, {"engine.pipeline": "fake"})
    async with open_daemon(appliance, tmp_path / "log") as daemon:
        resident = await run_memory(daemon, 32_768, 1, said.append)
    assert all(resident[role] > 0 for role in ("front", "worker"))
    assert len(said) == 1
    assert "after 16 prompts of 2100 tokens" in said[0]


async def test_a_long_prompt_is_measured_beside_a_stream(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "store", "fake", tmp_path, {"engine.pipeline": "fake"})
    async with open_daemon(appliance, tmp_path / "log") as daemon:
        run = await run_prefill(daemon, 128, 1, lambda line: None)
    assert run.max_num_batched_tokens == 128
    assert run.prompt_tokens > 0
    assert run.stall_ms > 0
    assert run.ttft_ms > 0
