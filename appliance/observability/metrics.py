"""Prometheus metrics in base units, with vLLM's suffixes. Counts what engine and dispatch report, no estimates."""

import math
import time
from collections import deque
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from appliance.types import EngineStats, Timings

NAMESPACE = "appliance"
RATE_WINDOW_S = 10.0
TTFT_WINDOW = 200  # answers that the p95 is of

TTFT_BUCKETS_S = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 30, 60)
TOKEN_BUCKETS_S = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
STEP_BUCKETS_S = TOKEN_BUCKETS_S
REQUEST_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
TOKEN_COUNT_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """Every metric of the daemon, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a start time for each series helps nobody here
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=NAMESPACE, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, namespace=NAMESPACE, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, namespace=NAMESPACE, registry=registry, buckets=buckets)

        ProcessCollector(namespace=NAMESPACE, registry=registry)
        self._model = Info("model", "The model that answers.", namespace=NAMESPACE, registry=registry)
        self._build = Info("build", "Versions of what answers.", namespace=NAMESPACE, registry=registry)
        self.requests_running = gauge("requests_running", "Requests in the engine.")
        self.requests_waiting = gauge("requests_waiting", "Requests in the queue.")
        self.requests_detached = gauge("requests_detached", "Resumable requests that go on without a socket.")
        self.websocket_connections = gauge("websocket_connections", "Open WebSocket connections.")
        self._requests = counter("requests", "Requests that ended, by outcome.", "outcome")
        self._rejections = counter("admission_rejections", "Requests that were not taken, by reason.", "reason")
        self._resumes = counter("resumes", "Attempts to resume, and detached requests that nobody resumed.", "outcome")
        self._restarts = counter("engine_restarts", "Engine workers lost, by reason.", "reason")
        self._recycles = counter(
            "engine_recycles", "Engine workers replaced while they were well, by reason.", "reason"
        )
        self._switches = counter("model_switches", "Attempts to serve another model, by outcome.", "outcome")
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of started requests.")
        self._generation_tokens = counter("generation_tokens", "Tokens generated.")
        self._drafted = counter("draft_tokens", "Tokens drafted from prompts (engine.prompt_lookup).")
        self._drafted_right = counter("draft_tokens_accepted", "Drafted tokens that were right, and took no step.")
        self._draft_gain = gauge("draft_gain_ratio", "Speed with drafts over that without, lately; NaN: not known.")
        self._rate = gauge("generation_tokens_per_second", f"Tokens generated a second, last {RATE_WINDOW_S:g} s.")
        self._rate.set_function(self.tokens_per_second)
        self._kv_usage = gauge("kv_cache_usage_ratio", "Share of the KV cache in use; NaN where the engine can't tell.")
        self._kv_bytes = gauge("kv_cache_bytes", "Size of the KV cache; NaN where the engine can't tell.")
        self._engine_rss = gauge("engine_resident_memory_bytes", "Resident memory of the engine worker.")
        self._certificate = gauge(
            "tls_certificate_expiry_timestamp_seconds",
            "When the certificate of new connections expires, since unix epoch in seconds; NaN without TLS.",
        )
        self._load = gauge("model_load_seconds", "From the worker's start of loading to the end of its warm-up.")
        self._ttft = histogram("time_to_first_token_seconds", "From arrival to the first text.", TTFT_BUCKETS_S)
        self._inter_token = histogram("inter_token_latency_seconds", "Between tokens of one answer.", TOKEN_BUCKETS_S)
        self._queue_time = histogram("request_queue_time_seconds", "From arrival to the engine.", TTFT_BUCKETS_S)
        self._e2e = histogram("e2e_request_latency_seconds", "From arrival to the end.", REQUEST_BUCKETS_S)
        self._step = histogram("engine_step_seconds", "One engine step.", STEP_BUCKETS_S)
        self._canary = histogram(
            "canary_seconds", "From asking an idle engine for one token to its answer.", TTFT_BUCKETS_S
        )
        self._prompt = histogram("request_prompt_tokens", "Prompt tokens of a request.", TOKEN_COUNT_BUCKETS)
        self._generation = histogram("request_generation_tokens", "Tokens of an answer.", TOKEN_COUNT_BUCKETS)
        self._kv_usage.set(math.nan)
        self._kv_bytes.set(math.nan)
        self._draft_gain.set(math.nan)
        self._certificate.set(math.nan)
        self._recent: deque[tuple[float, int]] = deque()
        self._ttfts_s: deque[float] = deque(maxlen=TTFT_WINDOW)
        self.last_stats: EngineStats | None = None

    def describe(self, model: str, digest: str, version: str, openvino: str) -> None:
        """What answers, and versions."""
        self._model.info({"id": model, "digest": digest})
        self._build.info({"version": version, "openvino": openvino})

    def certificate(self, expiry_s: float) -> None:
        """New connections are shown another certificate; `expiry_s` since the epoch."""
        self._certificate.set(expiry_s)

    def watch(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Read the gauges of requests from these at each scrape."""
        self.requests_running.set_function(running)
        self.requests_waiting.set_function(waiting)

    def rejected(self, reason: str) -> None:
        """A request was not taken."""
        self._rejections.labels(reason).inc()

    def resumed(self, outcome: str) -> None:
        """A client came back for a request, or did not in time; `outcome` is one word of few."""
        self._resumes.labels(outcome).inc()

    def started(self, prompt_tokens: int, queue_s: float) -> None:
        """The engine took a request."""
        self._prompt_tokens.inc(prompt_tokens)
        self._prompt.observe(prompt_tokens)
        self._queue_time.observe(queue_s)

    def step(self, stats: EngineStats) -> None:
        """What the engine said after a step."""
        self.last_stats = stats
        self._step.observe(stats.step_s)
        self._engine_rss.set(stats.rss_bytes)
        self._kv_usage.set(math.nan if stats.kv_cache_usage_ratio is None else stats.kv_cache_usage_ratio)
        self._kv_bytes.set(math.nan if stats.kv_cache_bytes is None else stats.kv_cache_bytes)
        self._draft_gain.set(math.nan if stats.draft_gain is None else stats.draft_gain)
        self._drafted.inc(stats.drafted)
        self._drafted_right.inc(stats.drafted_right)

    def tokens(self, count: int, since_s: float | None) -> None:
        """One request grew by `count` tokens, `since_s` seconds after those before."""
        if not count:
            return
        self._generation_tokens.inc(count)
        self._recent.append((time.monotonic(), count))
        self._forget_old()
        if since_s is not None:
            for _ in range(count):
                self._inter_token.observe(since_s / count)

    def ended(self, outcome: str, timings: Timings, completion_tokens: int) -> None:
        """A request had its terminal event."""
        self._requests.labels(outcome).inc()
        self._e2e.observe(timings.total_ms / 1000)
        if timings.ttft_ms is not None:
            self._ttft.observe(timings.ttft_ms / 1000)
            self._ttfts_s.append(timings.ttft_ms / 1000)
            self._generation.observe(completion_tokens)

    def canary(self, seconds: float) -> None:
        """An idle engine has brought a token."""
        self._canary.observe(seconds)

    def engine_ready(self, load_s: float, rss_bytes: int) -> None:
        """A worker has warmed up."""
        self._load.set(load_s)
        self._engine_rss.set(rss_bytes)

    def engine_lost(self, reason: str) -> None:
        """A worker is gone; `reason` is one word of few."""
        self._restarts.labels(reason).inc()

    def engine_recycled(self, reason: str) -> None:
        """Another worker has taken over; `reason` is one word of few."""
        self._recycles.labels(reason).inc()

    def switched(self, outcome: str) -> None:
        """Another model was to be served; `outcome` is one word of few."""
        self._switches.labels(outcome).inc()

    def engine_away(self) -> None:
        """There is no worker to tell of."""
        self._engine_rss.set(0)
        self._kv_usage.set(math.nan)
        self._kv_bytes.set(math.nan)
        self.last_stats = None

    def tokens_per_second(self) -> float:
        """Tokens generated a second, of all requests, over the last RATE_WINDOW_S. From any thread."""
        oldest = time.monotonic() - RATE_WINDOW_S
        return sum(count for at, count in list(self._recent) if at >= oldest) / RATE_WINDOW_S

    def ttft_p95_s(self) -> float | None:
        """Time to first token that 95 % of the last TTFT_WINDOW answers took at most; None before the first."""
        last = sorted(self._ttfts_s)
        return last[math.ceil(0.95 * len(last)) - 1] if last else None

    def _forget_old(self) -> None:
        oldest = time.monotonic() - RATE_WINDOW_S
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition, and its content type, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
