"""Health, readiness, metrics, status: what probes, Prometheus and people ask."""

import asyncio
import os
import time
from typing import Any

from aiohttp import web

from appliance import __version__
from appliance.api.answers import json_response
from appliance.api.keys import DAEMON
from appliance.api.state import Daemon
from appliance.errors import ConfigError
from appliance.models.choosing import Choice
from appliance.models.slots import read_slots
from appliance.observability import host
from appliance.types import ServedModel

DRAINED = "drained by the operator; appliance undrain ends it"

INDEX = """appliance {version}: {model}
  WebSocket   /v1/ws       (try: new WebSocket(location.origin.replace("http", "ws") + "/v1/ws") in this page's console)
  status      /v1/status
  metrics     /metrics
  health      /healthz   /readyz
"""


async def index(request: web.Request) -> web.Response:
    """What is here, for a person with a browser."""
    return web.Response(text=INDEX.format(version=__version__, model=request.app[DAEMON].model.id))


async def healthz(_request: web.Request) -> web.Response:
    """200 while the event loop turns."""
    return json_response({"healthy": True})


async def readyz(request: web.Request) -> web.Response:
    """200 where a request would be answered now, else 503 with the reason, and why no engine takes requests."""
    daemon = request.app[DAEMON]
    reason = daemon.not_ready()
    if reason is None:
        return json_response({"ready": True})
    detail = daemon.engine.why_away
    if reason == "draining":
        detail = DRAINED if daemon.dispatcher.drained else None
    return json_response({"ready": False, "reason": reason, "detail": detail}, 503)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus exposition."""
    daemon = request.app[DAEMON]
    daemon.metrics.requests_detached.set(daemon.keeper.detached)  # here, as another thread may not go through them
    # On a thread: the figures of this process are read from /proc.
    body, content_type = await asyncio.to_thread(daemon.metrics.render, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def status(request: web.Request) -> web.Response:
    """One JSON object for people and scripts."""
    daemon = request.app[DAEMON]
    rss, engine_rss, temperature, throttles = await asyncio.to_thread(_host_facts, daemon.engine.worker_pid)
    slots = await asyncio.to_thread(_slots, daemon.choice)
    stats = daemon.metrics.last_stats
    reason = daemon.not_ready()
    return json_response(
        {
            "version": __version__,
            "ready": reason is None,
            "reason": reason,
            "drained": daemon.dispatcher.drained,
            "needs_restart": daemon.needs_restart,
            "uptime_s": round(time.monotonic() - daemon.started_at, 1),
            "model": _model(daemon.model),
            "slots": slots,
            "switch": {
                "stage": None if daemon.switching is None else daemon.switching.stage,
                "last": None if daemon.switching is None else daemon.switching.last,
            },
            "requests": {
                "running": daemon.dispatcher.running,
                "waiting": daemon.dispatcher.waiting,
                "detached": daemon.keeper.detached,
            },
            "connections": len(daemon.connections),
            "tls": _tls(daemon),
            "tokens_per_second": round(daemon.metrics.tokens_per_second(), 1),
            "kv_cache_usage_ratio": stats.kv_cache_usage_ratio if stats else None,
            "rss_bytes": {"front": rss, "engine": engine_rss},
            "cpu": {"temperature_celsius": temperature, "throttle_count": throttles},
            "engine": _engine(daemon),
        }
    )


def _tls(daemon: Daemon) -> dict[str, str] | None:
    """What new connections are shown; None without TLS."""
    if daemon.certificate is None:
        return None
    shown = daemon.certificate.certificate
    return {"certificate_sha256": shown.sha256, "not_after": shown.not_after.isoformat()}


def _tuned(daemon: Daemon) -> dict[str, object] | None:
    """What comes of `appliance tune` for this model here; None where nothing was measured that counts."""
    tuned = daemon.tuning.of(daemon.settings.engine, daemon.model.digest)
    if tuned is None:
        return None
    changes = daemon.tuning.changes(daemon.settings.engine, daemon.model.digest)
    return {"settings": changes, "profile": tuned.profile, "at": tuned.at, "why": tuned.evidence.why}


def _model(model: ServedModel) -> dict[str, object]:
    """What answers."""
    return {
        "id": model.id,
        "digest": model.digest,
        "quantization": model.quantization,
        "context_tokens": model.context_tokens,
        "weights_bytes": model.weights_bytes,
        "weights_read_bytes": model.weights_read_bytes,
    }


def _engine(daemon: Daemon) -> dict[str, object]:
    """What the model runs on, how that is set, and how it has fared."""
    engine = daemon.engine
    ready = engine.ready
    return {
        "state": engine.state,
        "pipeline": daemon.settings.engine.pipeline,
        "pid": engine.worker_pid,
        "versions": ready.versions if ready else None,
        "load_s": round(ready.load_s, 2) if ready else None,
        "warm_up_s": round(ready.warm_up_s, 2) if ready else None,
        "settings": daemon.engine_settings(daemon.model),
        "tuned": _tuned(daemon),
        "isa_cap": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "worker_age_s": round(engine.serving.ready_for_s, 1) if engine.serving else None,
        "recycles": engine.recycles,
        "last_recycle_failure": engine.recycler.last_failure,
        "canary": _canary(engine.canary),
        "losses": engine.losses,
        "last_loss": engine.last_loss,
        "next_start_s": None if engine.next_start_s is None else round(engine.next_start_s, 1),
    }


def _canary(last: tuple[float, float] | None) -> dict[str, float] | None:
    """The last proof that an idle engine works."""
    return None if last is None else {"seconds": round(last[1], 3), "age_s": round(time.monotonic() - last[0], 1)}


def _slots(choice: Choice | None) -> dict[str, object] | None:
    """What is current, previous and bad in the store; None where nothing of a store is served, or it can't be read."""
    try:
        slots = None if choice is None else read_slots(choice.store.directory)
    except ConfigError:
        return None
    if slots is None:
        return None
    return {
        "current": None if slots.current is None else str(slots.current),
        "previous": None if slots.previous is None else str(slots.previous),
        "bad": [{"model": str(mark.slot), "reason": mark.reason, "since": mark.since} for mark in slots.bad],
    }


def _host_facts(worker_pid: int | None) -> tuple[Any, ...]:
    return (
        host.resident_memory_bytes(),
        None if worker_pid is None else host.resident_memory_bytes(worker_pid),
        host.cpu_temperature_celsius(),
        host.cpu_throttle_count(),
    )


ROUTES = [
    web.get("/", index),
    web.get("/healthz", healthz),
    web.get("/health", healthz),
    web.get("/v2/health/live", healthz),
    web.get("/readyz", readyz),
    web.get("/v2/health/ready", readyz),
    web.get("/metrics", metrics),
    web.get("/v1/status", status),
]
