"""Health, readiness, metrics, status, and errors as JSON, over real HTTP."""

import asyncio
import os
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance import __version__
from tests.support.daemon import Appliance, running, settings, until


@pytest.mark.parametrize("path", ["/healthz", "/health", "/v2/health/live"])
async def test_health_is_200_also_before_the_engine_is_ready(path: str) -> None:
    async with running(settings()) as appliance:
        assert await appliance.get(path) == (200, {"healthy": True})


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready"])
async def test_ready_tells_loading_then_ready_then_draining(path: str) -> None:
    async with running(settings()) as appliance:
        status, body = await appliance.get(path)
        assert status == 503
        assert body["ready"] is False
        assert body["reason"] in ("loading", "warming")
        await appliance.ready()
        assert await appliance.get(path) == (200, {"ready": True})
        async with appliance.connect() as peer:
            await peer.chat("r1", "again fake:step-ms=5", params={"max_tokens": 50})
            await peer.until("delta")
            drain = asyncio.create_task(appliance.daemon.dispatcher.drain(10))
            await until(lambda: appliance.daemon.dispatcher.draining)
            assert await appliance.get(path) == (503, {"ready": False, "reason": "draining", "detail": None})
            await drain


async def test_ready_tells_stalled_or_restarting_when_the_engine_wedges() -> None:
    async with running(settings(engine={"stall_timeout_s": 0.3})) as appliance, appliance.connect() as peer:
        await appliance.ready()
        await peer.chat("r1", "fake:wedge")
        reasons: set[str | None] = set()
        while not reasons & {"stalled", "restarting"}:
            reasons.add((await appliance.get("/readyz"))[1].get("reason"))
        _, error = await peer.answer("r1")
        assert error["code"] == "engine_restarted"
        await appliance.ready()


async def test_an_idle_engine_that_is_stopped_is_told_by_ready_and_replaced() -> None:
    quick = {"stall_timeout_s": 0.3, "canary_interval_s": 0.1}
    async with running(settings(engine=quick)) as appliance, appliance.connect() as peer:
        await appliance.ready()
        await until(lambda: appliance.daemon.engine.canary is not None)
        os.kill(appliance.daemon.engine.worker_pid or 0, signal.SIGSTOP)
        reasons: set[str | None] = set()
        while not reasons & {"stalled", "restarting"}:
            reasons.add((await appliance.get("/readyz"))[1].get("reason"))
        await appliance.ready()
        await peer.chat("r1", "fine", params={"max_tokens": 1})
        assert (await peer.answer("r1"))[0] == "fine "


async def test_canaries_are_counted_apart_and_shown_in_the_status() -> None:
    async with running(settings(engine={"canary_interval_s": 0.05})) as appliance:
        await appliance.ready()
        await until(lambda: appliance.daemon.engine.canary is not None)
        canary = (await appliance.get("/v1/status"))[1]["engine"]["canary"]
        assert canary["seconds"] >= 0
        assert canary["age_s"] >= 0
        assert await appliance.metric("appliance_canary_seconds_count") >= 1
        for name in ("generation_tokens_total", "prompt_tokens_total", "engine_step_seconds_count"):
            assert await appliance.metric(f"appliance_{name}") == 0


async def test_metrics_count_what_was_done(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        for name in ("r1", "r2"):
            await peer.chat(name, "one two three", params={"max_tokens": 5})
            await peer.until("done")
        expected = {
            "appliance_requests_total": 2,
            "appliance_prompt_tokens_total": 8,
            "appliance_generation_tokens_total": 10,
            "appliance_time_to_first_token_seconds_count": 2,
            "appliance_inter_token_latency_seconds_count": 8,
            "appliance_request_queue_time_seconds_count": 2,
            "appliance_e2e_request_latency_seconds_count": 2,
            "appliance_request_prompt_tokens_sum": 8,
            "appliance_request_generation_tokens_sum": 10,
            "appliance_engine_step_seconds_count": 10,
            "appliance_websocket_connections": 1,
            "appliance_requests_running": 0,
            "appliance_requests_waiting": 0,
            "appliance_model_info": 1,
            "appliance_build_info": 1,
        }
        found = {name: await appliance.metric(name) for name in expected}
        assert found == expected
        assert await appliance.metric("appliance_generation_tokens_per_second") == 1.0
        assert await appliance.metric("appliance_engine_resident_memory_bytes") > 10_000_000
        assert await appliance.metric("appliance_process_resident_memory_bytes") > 10_000_000


async def test_metrics_are_prometheus_text(appliance: Appliance) -> None:
    async with appliance.session.get(f"{appliance.url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(await response.text()))
    assert all(family.name.startswith("appliance_") for family in families)
    assert all(family.documentation for family in families)
    (build,) = [f for f in families if f.name == "appliance_build_info"]
    assert build.samples[0].labels["version"] == __version__


async def test_status_is_for_people_and_scripts(appliance: Appliance) -> None:
    async with appliance.connect() as peer:
        await peer.chat("r1", "again fake:step-ms=5", params={"max_tokens": 4000})
        await peer.until("delta")
        status, body = await appliance.get("/v1/status")
        assert status == 200
        assert body["version"] == __version__
        assert (body["ready"], body["reason"]) == (True, None)
        assert body["model"]["id"] == "fake"
        assert body["requests"] == {"running": 1, "waiting": 0, "detached": 0}
        assert body["connections"] == 1
        assert body["kv_cache_usage_ratio"] > 0
        assert min(body["rss_bytes"].values()) > 10_000_000
        assert body["engine"]["pid"] == appliance.daemon.engine.worker_pid
        assert body["engine"]["last_loss"] is None
        assert body["engine"]["settings"]["pipeline"] == "fake"
        assert body["engine"]["settings"]["kv_cache_tokens"] == appliance.daemon.settings.engine.kv_cache_tokens
        assert body["model"]["weights_read_bytes"] is None
        assert body["uptime_s"] >= 0


async def test_status_tells_why_the_engine_was_lost(appliance: Appliance) -> None:
    pid = appliance.daemon.engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSEGV)
    await until(lambda: appliance.daemon.engine.losses == 1)
    await appliance.ready()
    _, body = await appliance.get("/v1/status")
    assert body["engine"]["losses"] == 1
    assert "SIGSEGV" in body["engine"]["last_loss"]


async def test_status_tells_how_old_the_worker_is_and_how_often_it_was_replaced() -> None:
    async with running(settings(engine={"max_worker_age_s": 0.2})) as appliance:
        await appliance.ready()
        await until(lambda: appliance.daemon.engine.recycles > 0)
        engine = (await appliance.get("/v1/status"))[1]["engine"]
        assert engine["recycles"] >= 1
        assert engine["worker_age_s"] >= 0
        assert (engine["losses"], engine["last_recycle_failure"]) == (0, None)
        assert await appliance.metric("appliance_engine_recycles_total") >= 1


async def test_the_index_says_what_is_here(appliance: Appliance) -> None:
    async with appliance.session.get(f"{appliance.url}/") as response:
        text = await response.text()
    assert "/v1/ws" in text
    assert "fake" in text


async def test_an_unknown_path_and_a_wrong_method_are_json(appliance: Appliance) -> None:
    status, body = await appliance.get("/nope")
    assert (status, body["error"]["code"]) == (404, "http_404")
    async with appliance.session.post(f"{appliance.url}/healthz") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert (await response.json())["error"]["code"] == "http_405"


async def test_a_plain_get_of_the_websocket_says_what_it_is(appliance: Appliance) -> None:
    async with appliance.session.get(f"{appliance.url}/v1/ws") as response:
        assert response.status == 426
        assert "WebSocket" in await response.text()
