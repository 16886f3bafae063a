"""The daemon's parts, as the handlers see them: settings, model, engine, dispatcher, metrics, sockets."""

import time
from importlib import metadata
from typing import TYPE_CHECKING

from appliance import __version__
from appliance.api.keeper import Keeper
from appliance.config import Settings
from appliance.dispatch import Capacity, Dispatcher
from appliance.engine.client import EngineClient
from appliance.engine.ipc import Load
from appliance.observability.metrics import Metrics
from appliance.protocol.websocket import Limits, ReadyReason
from appliance.types import ServedModel

if TYPE_CHECKING:
    from appliance.api.connection import Connection


class Daemon:
    """One model, one engine, one dispatcher; made once at start."""

    def __init__(self, settings: Settings, model: ServedModel) -> None:
        self.settings = settings
        self.model = model
        self.metrics = Metrics()
        self.metrics.describe(model.id, model.digest, __version__, metadata.version("openvino"))
        self.engine = EngineClient(engine_load(settings, model), settings.engine, self.metrics)
        capacity = Capacity(context_tokens=model.context_tokens, kv_cache_tokens=settings.engine.kv_cache_tokens)
        self.dispatcher = Dispatcher(self.engine, settings.dispatch, capacity, self.metrics)
        self.keeper = Keeper(
            grace_s=settings.server.resume_grace_s,
            max_chars=settings.server.resume_buffer_chars,
            max_per_client=settings.limits.max_live_requests,
            cancel=self.dispatcher.cancel,
            metrics=self.metrics,
        )
        self.metrics.watch(lambda: self.dispatcher.running, lambda: self.dispatcher.waiting)
        self.connections: set[Connection] = set()
        self.started_at = time.monotonic()
        self.limits = Limits(
            max_prompt_tokens=capacity.max_prompt_tokens,
            max_tokens=settings.limits.max_tokens,
            max_message_bytes=settings.server.max_message_bytes,
            max_live_requests=settings.limits.max_live_requests,
            resume_grace_s=settings.server.resume_grace_s,
        )

    def not_ready(self) -> ReadyReason | None:
        """Why new requests would not be answered now; None where they would."""
        if self.dispatcher.draining:
            return "draining"
        match self.engine.state:
            case "ready":
                return None
            case "stopped":
                return "draining"
            case state:
                return state


def engine_load(settings: Settings, model: ServedModel) -> Load:
    """What an engine worker is told to load."""
    engine = settings.engine
    lookup = engine.prompt_lookup if engine.pipeline == "continuous_batching" else "off"
    return Load(
        pipeline=engine.pipeline,
        directory=model.directory,
        eos_token_ids=model.eos_token_ids,
        threads=engine.threads,
        precision=engine.precision,
        dynamic_quantization=engine.dynamic_quantization_group_size,
        kv_cache_tokens=engine.kv_cache_tokens,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_running_requests=engine.max_running_requests,
        prompt_lookup=lookup == "on",  # auto begins without: what it then measures speaks for drafts, or does not
        watch_drafts=lookup == "auto",
    )
