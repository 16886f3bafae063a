"""The daemon's parts, as the handlers see them: settings, model, engine, dispatcher, metrics, sockets."""

import asyncio
import errno
import logging
import time
from importlib import metadata
from typing import TYPE_CHECKING

from msgspec.structs import replace

from appliance import __version__
from appliance.api.keeper import Keeper
from appliance.config import EngineSettings, Settings
from appliance.config.certificate import Served
from appliance.dispatch import Capacity, Dispatcher
from appliance.engine.client import EngineClient
from appliance.engine.ipc import Load
from appliance.errors import ApplianceError
from appliance.models.choosing import Choice
from appliance.models.served import require_memory, served_model
from appliance.models.store import Installed
from appliance.models.switching import Switching
from appliance.models.tuning.applying import HostTuning
from appliance.observability.events import Event, event
from appliance.observability.logs import fields
from appliance.observability.metrics import Metrics
from appliance.protocol.websocket import Limits, ReadyReason
from appliance.types import ServedModel

if TYPE_CHECKING:
    from appliance.api.connection import Connection


log = logging.getLogger(__name__)


class Daemon:
    """One model at a time, one engine, one dispatcher; made once at start."""

    def __init__(
        self,
        settings: Settings,
        model: ServedModel,
        choice: Choice | None = None,
        tuning: HostTuning | None = None,
        certificate: Served | None = None,
    ) -> None:
        """`choice`: what it serves of which store; None where it serves `model` for ever.

        `tuning`: what was measured to be best on this host. `certificate`: what it speaks TLS with; None: it does not.
        """
        self.settings = settings
        self.needs_restart: list[str] = []
        """Settings that are others by now, and count from the next start on."""
        self.tuning = tuning or HostTuning()
        self.model = model
        """What answers now."""
        self.metrics = Metrics()
        self.certificate = certificate
        """What new connections are shown."""
        if certificate is not None:
            self.show(certificate)
        self.engine = EngineClient(self._worker_load(model), settings.engine, self.metrics)
        self.engine.on_serving = self._serving
        self.dispatcher = Dispatcher(self.engine, settings.dispatch, self._capacity(), self.metrics)
        self.dispatcher.model = model.id
        self.keeper = Keeper(
            grace_s=settings.server.resume_grace_s,
            max_chars=settings.server.resume_buffer_chars,
            max_per_client=settings.limits.max_live_requests,
            cancel=self.dispatcher.cancel,
            metrics=self.metrics,
        )
        self.metrics.watch(lambda: self.dispatcher.running, lambda: self.dispatcher.waiting)
        self.connections: set[Connection] = set()
        self.served = asyncio.Event()
        """Set once the first worker has warmed up."""
        self.started_at = time.monotonic()
        self.choice = choice
        self.switching = None if choice is None else Switching(self, choice)
        self._loadable: dict[str, tuple[ServedModel, Installed | None]] = {
            model.directory: (model, None if choice is None else choice.installed)
        }
        self._settling: asyncio.Task[None] | None = None
        self._describe()

    def _describe(self) -> None:
        """Tell of the model where it is told of."""
        model, settings = self.model, self.settings
        self.metrics.describe(model.id, model.digest, __version__, metadata.version("openvino"))
        self.limits = Limits(
            max_prompt_tokens=self._capacity().max_prompt_tokens,
            max_tokens=settings.limits.max_tokens,
            max_message_bytes=settings.server.max_message_bytes,
            max_live_requests=settings.limits.max_live_requests,
            resume_grace_s=settings.server.resume_grace_s,
        )

    def take_up(self, settings: Settings, needs_restart: list[str]) -> None:
        """Go on with `settings`, which differ in what a running daemon can change."""
        self.settings, self.needs_restart = settings, needs_restart
        self.dispatcher.settings = settings.dispatch
        self.keeper.rebound(
            grace_s=settings.server.resume_grace_s,
            max_chars=settings.server.resume_buffer_chars,
            max_per_client=settings.limits.max_live_requests,
        )
        self._describe()

    def show(self, certificate: Served) -> None:
        """Show it to new connections; those that are made know another, and stay."""
        self.certificate = certificate
        self.metrics.certificate(certificate.certificate.not_after.timestamp())

    def _capacity(self) -> Capacity:
        return Capacity(context_tokens=self.model.context_tokens, kv_cache_tokens=self.settings.engine.kv_cache_tokens)

    @property
    def busy(self) -> bool:
        """Whether answers run."""
        return self.dispatcher.running > 0

    def engine_settings(self, model: ServedModel) -> EngineSettings:
        """The engine's settings while `model` is served: what was tuned for it, but for what the operator has set."""
        return self.tuning.applied(self.settings.engine, model.digest)

    def _worker_load(self, model: ServedModel) -> Load:
        engine = self.engine_settings(model)
        changes = self.tuning.changes(self.settings.engine, model.digest)
        if changes:
            log.info("host tuning used", extra=fields(model=model.id, **changes))
        elif reason := self.tuning.misfit(self.settings.engine, model.digest):
            log.info("host tuning left aside", extra=fields(model=model.id, reason=reason))
        return engine_load(replace(self.settings, engine=engine), model)

    # ---- which model ------------------------------------------------------------------------------------

    def load_of(self, model: ServedModel, installed: Installed) -> Load:
        """What a worker is to load, so that `model` is what is served from the moment it takes over."""
        self._loadable[model.directory] = (model, installed)
        return self._worker_load(model)

    def check_model(self) -> None:
        """Raises ModelDamaged where what is served is no longer what was installed. Reads every byte."""
        if self.choice is not None:
            self.choice.check()

    def fall_back(self, reason: str) -> Load | None:
        """What to load instead of a model that fails for `reason`; None where there is no other that fits this machine.

        Reads every byte.
        """

        def require(other: Installed) -> None:
            served = served_model(other)
            require_memory(self.engine_settings(served), served)

        other = None if self.choice is None else self.choice.fall_back(reason, require)
        return None if other is None else self.load_of(served_model(other), other)

    def _serving(self, load: Load) -> None:
        """A worker takes over, perhaps with another model."""
        self.served.set()
        model, installed = self._loadable[load.directory]
        if model != self.model:
            self.model = model
            self.dispatcher.model = model.id
            self.dispatcher.capacity = self._capacity()
            self._describe()
        if self.choice is not None and installed is not None:
            self.choice.took(installed)
            self._settling = asyncio.create_task(self._settle(self.choice))

    async def _settle(self, choice: Choice) -> None:
        """Mark on the disk what could not be served, now that something is; at worst that is found out again."""
        try:
            await asyncio.to_thread(choice.settle)
        except (OSError, ApplianceError) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            extra = event(Event.DISK_FULL, reason=str(error)) if full else fields(reason=str(error))
            log.warning("models that fail are not marked bad", extra=extra)

    def not_ready(self) -> ReadyReason | None:
        """Why new requests would not be answered now; None where they would."""
        if self.dispatcher.draining or self.dispatcher.drained:
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
        kv_cache_precision=engine.kv_cache_precision,
        cpu_pinning=engine.cpu_pinning,
        kv_cache_tokens=engine.kv_cache_tokens,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_running_requests=engine.max_running_requests,
        prompt_lookup=lookup == "on",  # auto begins without: what it then measures speaks for drafts, or does not
        watch_drafts=lookup == "auto",
    )
