"""Every setting with its unit, bounds and default. Knows nothing of files or environment."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Origin = Annotated[str, Meta(pattern=r"^https?://[^/\s]+$")]
# Base64 of 32 bytes, in its one form.
PublicKey = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\Z")]


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listening side."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Address to listen on; `0.0.0.0` or `::` for the whole LAN."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    """TCP port; 0 takes a free one and logs it."""
    max_connections: Positive = 256
    """WebSocket connections at once; one more is answered 503 with Retry-After."""
    max_connections_per_client: Positive = 64
    """WebSocket connections at once of one address."""
    max_message_bytes: Annotated[int, Meta(ge=1024, le=4 << 20)] = 1 << 20
    """Largest frame that a client may send; a larger one closes its socket with 1009."""
    allowed_origins: tuple[Origin, ...] = ()
    """Browser origins, such as `https://kiosk.example`, that may connect besides the appliance's own pages."""
    heartbeat_s: Seconds = 20.0
    """Seconds between WebSocket pings; a peer without a pong for half of that again is dropped."""
    outbox_max_messages: Annotated[int, Meta(ge=16, le=65_536)] = 256
    """Messages waiting for one slow reader; one more closes its socket with 1013."""
    drain_timeout_s: Annotated[float, Meta(ge=0, le=3600)] = 20.0
    """Seconds that live requests have to finish after SIGTERM."""
    resume_grace_s: Annotated[float, Meta(ge=0, le=3600)] = 15.0
    """Seconds that a resumable request waits for its client to come back; 0 cancels it with its socket."""
    resume_buffer_chars: Annotated[int, Meta(ge=16_384, le=1 << 30)] = 1 << 21
    """Characters kept of all resumable answers, each counted as 1024 more, at up to 4 bytes each."""
    tls_certificate_file: str = ""
    """The certificate that TLS is served with, in PEM form, its chain after it; empty: plain http:// and ws://."""
    tls_key_file: str = ""
    """The private key of that certificate, in PEM form and without a passphrase."""
    control_socket: str = ""
    """The socket that `appliance models use`, `drain` and `reload` talk to; empty takes `control.sock` in
    `RUNTIME_DIRECTORY`, in `/run/appliance` or in `appliance` of the XDG runtime directory."""


class EngineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine worker."""

    pipeline: Literal["continuous_batching", "llm", "fake"] = "continuous_batching"
    """`continuous_batching`: requests share each step; `llm`: one at a time; `fake`: no model, for trying clients."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Inference threads; 0 takes one for each physical core that the process may use."""
    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    """Precision of the arithmetic (OpenVINO's INFERENCE_PRECISION_HINT); `auto` leaves it to the CPU."""
    dynamic_quantization_group_size: Literal["auto", "off", "32", "64", "128"] = "auto"
    """Activations that share a scale as INT8; `auto`: 64 where the model's INT4 groups allow it, else OpenVINO's 32."""
    cpu_pinning: Literal["auto", "on", "off"] = "auto"
    """Whether each inference thread stays on one core; `auto` leaves it to OpenVINO."""
    kv_cache_precision: Literal["auto", "u8", "f16", "bf16", "f32"] = "auto"
    """Precision of the KV cache; `auto` leaves it to OpenVINO, which takes u8; f16 needs twice the memory, f32 four
    times."""
    kv_cache_tokens: Annotated[int, Meta(ge=256, le=1 << 24)] = 32_768
    """Tokens of all running requests together, prompts and answers, that the KV cache holds."""
    max_num_batched_tokens: Annotated[int, Meta(ge=16, le=65_536)] = 48
    """Most prompt tokens computed in one step; smaller cancels sooner and stalls others less."""
    max_running_requests: Annotated[int, Meta(ge=1, le=256)] = 16
    """Requests that share a step (`llm` runs one whatever this says)."""
    prompt_lookup: Literal["auto", "on", "off"] = "auto"
    """Draft tokens from the prompt (`continuous_batching` only): `on` always, `auto` while that is faster."""
    default_max_tokens: Positive = 512
    """`max_tokens` of a request that names none; at most limits.max_tokens counts."""
    load_timeout_s: Seconds = 120.0
    """Seconds from the worker's start to ready; after that it is ended and started again."""
    stall_timeout_s: Seconds = 30.0
    """Seconds without progress (tokens, an end, a prefill that goes on) while work is due; after that the worker is
    ended and started again."""
    canary_interval_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """Seconds without a token after which an idle engine is asked for one, to prove that it works; 0 never asks."""
    max_rss_bytes: Annotated[int, Meta(ge=0)] = 0
    """Resident memory of a worker beyond which another takes over, without a failed request; 0 sets no limit."""
    max_worker_age_s: Annotated[float, Meta(ge=0, le=2_592_000)] = 86_400.0
    """Seconds that a worker serves until another takes over, without a failed request; 0 sets no limit."""
    start_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    """Failures before the first ready after which the daemon gives up with exit status 1."""
    failures_max: Annotated[int, Meta(ge=1, le=1000)] = 6
    """Workers lost within failure_window_s after which only one is tried each retry_interval_s."""
    failure_window_s: Seconds = 300.0
    """Seconds over which lost workers are counted."""
    retry_interval_s: Seconds = 300.0
    """Seconds between two starts of a worker that failed failures_max times within failure_window_s."""
    restart_backoff_max_s: Seconds = 30.0
    """Longest pause between two starts of a worker that keeps failing."""


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model, and where models are kept."""

    preferred: Annotated[tuple[str, ...], Meta(min_length=1)] = ("qwen2.5-0.5b-instruct", "smollm2-135m-instruct")
    """Catalog ids, best first: the first that is installed is served, else the first that can be had is pulled."""
    directory: str = ""
    """The model store; empty takes `STATE_DIRECTORY/models`, `/var/lib/appliance/models` or the XDG data directory."""
    source_timeout_s: Seconds = 5.0
    """Seconds that an unreachable source may cost before the next one is tried."""
    download_timeout_s: Seconds = 3600.0
    """Seconds that one download may take."""
    trusted_keys: tuple[PublicKey, ...] = ()
    """Ed25519 public keys; `models install` then takes only bundles signed by one of them. Empty takes any."""
    max_store_bytes: Annotated[int, Meta(ge=0)] = 0
    """What all installed models together may take; 0 sets no limit."""
    min_speed_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Least speed of a canary for `models use`, over the last good one's; 0 asks for none."""
    canary_prompt: Annotated[str, Meta(min_length=1)] = "Tell me about Paris, the capital of France."
    """What a model is asked before `models use` has it take over."""
    canary_expect: str = "Paris"
    """What the answer has to contain, in whatever case; empty: any answer that is no obvious nonsense."""


class DispatchSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The queue before the engine."""

    max_waiting: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Requests waiting, of all clients; one more is answered queue_full."""
    max_waiting_per_client: Annotated[int, Meta(ge=1, le=10_000)] = 16
    """Requests waiting, of one client address; one more is answered queue_full."""
    default_deadline_s: Seconds = 120.0
    """Seconds from arrival to the end of the answer, for a request that names none; at most max_deadline_s counts."""
    max_deadline_s: Seconds = 600.0
    """Longest deadline that a request may name."""


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may ask for."""

    max_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096
    """Largest `max_tokens` of a request."""
    max_live_requests: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Live requests on one socket, with its client's detached ones; one more is answered rate_limited."""
    max_messages: Positive = 512
    """Messages in one request."""
    max_stop: Annotated[int, Meta(ge=0, le=64)] = 8
    """Stop strings in one request, each of at most 64 characters."""


class LoggingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    format: Literal["auto", "console", "json", "journal"] = "auto"
    """`auto`: the journal where systemd connects stderr to it, readable lines on a terminal, else JSON lines."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, by section."""

    server: ServerSettings = field(default_factory=ServerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    models: ModelSettings = field(default_factory=ModelSettings)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
