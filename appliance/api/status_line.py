"""The daemon's state in one line, for `systemctl status`. Knows the daemon; tells nobody."""

import re

from appliance.api.state import Daemon

BETWEEN = " · "
GB = 1e9
REASON_MAX_CHARS = 120
_WEIGHTS = re.compile(r"\b(int4|int8|nf4|f16|bf16|f32)\b", re.IGNORECASE)


def status_line(daemon: Daemon, front_bytes: int) -> str:
    """Like `ready · qwen2.5-0.5b-instruct int4 · 2 running, 0 waiting · 41 tok/s · TTFT p95 0.31 s · 0.93 GB`.

    `front_bytes`: resident memory of this process.
    """
    left_s = daemon.dispatcher.drain_left_s
    if left_s is not None:
        return _joined("stopping", _requests(daemon), f"at most {left_s:.0f} s more")
    match daemon.engine.state:
        case "ready":
            state = "drained by the operator" if daemon.dispatcher.drained else "ready"
            return _joined(state, _model(daemon), _requests(daemon), *_figures(daemon, front_bytes))
        case "loading" | "warming" as state if daemon.engine.next_start_s is None:
            return _joined(state, _model(daemon), _waiting(daemon))
        case state:
            return _joined(_away(daemon, state), _reason(daemon), _waiting(daemon))


def _away(daemon: Daemon, state: str) -> str:
    left_s = daemon.engine.next_start_s
    if left_s is None:
        return state
    again = f"tried again in {left_s:.0f} s"
    return f"the engine keeps failing, {again}" if daemon.engine.given_up else f"engine lost, {again}"


def _reason(daemon: Daemon) -> str:
    return (daemon.engine.why_away or "")[:REASON_MAX_CHARS]


def _model(daemon: Daemon) -> str:
    weights = _WEIGHTS.search(daemon.model.quantization)
    return daemon.model.id + (f" {weights[1].lower()}" if weights else "")


def _requests(daemon: Daemon) -> str:
    return f"{daemon.dispatcher.running} running, {daemon.dispatcher.waiting} waiting"


def _waiting(daemon: Daemon) -> str:
    return f"{daemon.dispatcher.waiting} waiting" if daemon.dispatcher.waiting else ""


def _figures(daemon: Daemon, front_bytes: int) -> list[str]:
    ttft_s = daemon.metrics.ttft_p95_s()
    worker = daemon.engine.serving
    return [
        f"{daemon.metrics.tokens_per_second():.0f} tok/s",
        "" if ttft_s is None else f"TTFT p95 {ttft_s:.2f} s",
        f"{(front_bytes + (worker.rss_bytes if worker else 0)) / GB:.2f} GB",
    ]


def _joined(*parts: str) -> str:
    return BETWEEN.join(part for part in parts if part)
