"""`appliance bench` as people run it: a process of its own against a daemon with the fake engine."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from appliance.bench.measure import Plan, measure
from appliance.bench.results import read_result
from appliance.bench.samples import Level, Sample
from appliance.bench.target import TargetError
from appliance.bench.websocket import open_targets
from appliance.client import Message
from appliance.client.scripted import open_scripted_server
from tests.support.daemon import Appliance, running, settings
from tests.support.process import environment, run_beside

WAIT_S = 60.0  # a bound for a test that fails


async def bench(home: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    return await run_beside([sys.executable, "-m", "appliance", "bench", *arguments], environment(home))


class Quiet:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.samples = 0
        self.levels: list[Level] = []

    def stage(self, text: str) -> None: ...

    def sample(self, sample: Sample) -> None:
        self.samples += 1

    def level(self, level: Level) -> None:
        self.levels.append(level)


def plan(url: str, **changes: object) -> Plan:
    values: dict[str, object] = {
        "url": url, "kinds": ["free"], "concurrency": [1], "prompt_tokens": 120, "output_tokens": 5,
        "shared_prefix": 0.0, "think_s": 0.0, "requests": 2, "duration_s": None, "warm_up": 1, "seed": 7,
    }  # fmt: skip
    return Plan(**(values | changes))  # type: ignore[arg-type] # names and types are the struct's


async def test_a_measurement_ends_in_a_table_a_file_and_a_page(appliance: Appliance, tmp_path: Path) -> None:
    file, page = tmp_path / "a.json", tmp_path / "a.html"
    status, out, err = await bench(
        tmp_path, "--url", appliance.url, "--concurrency", "1,3", "--kind", "free,chat", "--requests", "2",
        "--prompt-tokens", "60", "--output-tokens", "5", "--seed", "3", "--json", str(file), "--html", str(page),
    )  # fmt: skip
    assert status == 0, err
    assert len([line for line in out.splitlines() if line.startswith(("free ", "chat "))]) == 4
    assert [line for line in err.splitlines() if line.startswith("bench: chat, 3 clients: 6 requests")]
    found = read_result(file)
    assert [(run.level.kind, run.level.concurrency) for run in found.runs] == [
        ("free", 1), ("free", 3), ("chat", 1), ("chat", 3),
    ]  # fmt: skip
    assert found.server.model.digest == "0" * 64
    assert found.server.engine.settings["pipeline"] == "fake"
    assert found.same_host
    assert found.roofline.why_not is not None
    assert all(sample.tokens == 5 and sample.outcome == "length" for run in found.runs for sample in run.samples)
    assert all(sample.prompt_tokens for run in found.runs for sample in run.samples)
    assert len({run.workload.seed for run in found.runs}) == 4
    assert "<svg" in page.read_text("utf-8")
    assert await appliance.metric("appliance_websocket_connections") == 0


async def test_two_files_are_compared(appliance: Appliance, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for file, tokens in zip(files, ("5", "6"), strict=True):
        status, _, err = await bench(
            tmp_path, "--url", appliance.url, "--concurrency", "1", "--requests", "1", "--output-tokens", tokens,
            "--json", file,
        )  # fmt: skip
        assert status == 0, err
    status, out, err = await bench(tmp_path, "--compare", *files)
    assert status == 0
    assert "tokens/s" in out
    assert "workloads differ in output_tokens" in err


async def test_a_file_that_is_no_result_ends_a_comparison_with_78(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": 1}), "utf-8")
    status, out, err = await bench(tmp_path, "--compare", str(file), str(file))
    assert (status, out) == (78, "")
    assert len(err.splitlines()) == 1
    assert str(file) in err


async def test_where_nobody_listens_one_line_says_what_to_do(tmp_path: Path) -> None:
    status, out, err = await bench(tmp_path, "--url", "http://127.0.0.1:1")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "appliance serve" in err


async def test_a_server_that_is_no_appliance_is_told(tmp_path: Path) -> None:
    async with open_scripted_server() as server:
        status, _, err = await bench(tmp_path, "--url", server.url)
    assert status == 1
    assert "is it an appliance?" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,x"),
        ("--kind", "poem"),
        ("--prompt-tokens", "20"),
        ("--json", "/nowhere/at/all.json"),
        ("--compare", "a.json", "b.json", "--soak", "1"),
        ("--soak", "1", "--html", "a.html"),
    ],
)
async def test_wrong_usage_is_told_before_anything_is_asked(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, _, err = await bench(tmp_path, *arguments)
    assert status == 2, err


async def test_refused_requests_are_counted_by_code_and_the_measurement_ends() -> None:
    async with running(settings(dispatch={"max_waiting": 1}, engine={"max_running_requests": 1})) as appliance:
        await appliance.ready()
        progress = Quiet()
        found = await measure(plan(appliance.url, concurrency=[8], requests=1, warm_up=0), progress)
    level = found.runs[0].level
    assert level.requests == 8 == progress.samples
    assert level.failed > 0
    assert level.errors == {"queue_full": level.failed}


async def test_a_measurement_in_which_all_fails_says_so(tmp_path: Path) -> None:
    async with running(settings(engine={"kv_cache_tokens": 256})) as appliance:
        await appliance.ready()
        status, out, err = await bench(
            tmp_path, "--url", appliance.url, "--concurrency", "1", "--requests", "1", "--prompt-tokens", "2000"
        )
    assert (status, out) == (1, "")
    assert "no request was answered: prompt_too_long" in err


async def test_a_target_yields_deltas_and_then_tells_the_end(appliance: Appliance) -> None:
    async with open_targets(appliance.url, 1) as target_for:
        target = target_for(0)
        counts = [n async for n in target.ask([Message("user", "one two")], max_tokens=4, seed=1)]
        assert sum(counts) <= 4
        assert target.ending is not None
        assert (target.ending.outcome, target.ending.tokens, target.ending.text) == ("length", 4, "one two one two ")
        with pytest.raises(TargetError) as caught:
            async for _ in target.ask([Message("user", "fake:reject")], max_tokens=4, seed=1):
                pass
        assert caught.value.code == "bad_request"
        assert target.ending is None


async def test_leaving_a_target_cancels_its_request(appliance: Appliance) -> None:
    async with open_targets(appliance.url, 1) as target_for:
        counts = target_for(0).ask([Message("user", "on fake:step-ms=5")], max_tokens=4000, seed=1)
        await anext(counts)
        assert appliance.daemon.dispatcher.running == 1
        await counts.aclose()
        async with asyncio.timeout(WAIT_S):
            while appliance.daemon.dispatcher.running:
                await asyncio.sleep(0.01)
