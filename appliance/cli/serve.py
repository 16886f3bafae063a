"""`appliance serve`: settings and an installed model in, a running daemon out. Downloads nothing."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from appliance.cli.telling import tell_warning
from appliance.types import GenerationDefaults, ServedModel

if TYPE_CHECKING:
    from appliance.api.activation import InheritedSocket
    from appliance.api.listener import Listeners
    from appliance.api.state import Daemon
    from appliance.config import Effective, Settings
    from appliance.engine.memory import MemoryBudget
    from appliance.models.choosing import Choice
    from appliance.models.tuning.applying import HostTuning
    from appliance.observability.notify import Notifier

log = logging.getLogger(__name__)

READING_MAX_S = 300.0  # every byte of a model, from a slow card

FAKE_MODEL = ServedModel(
    id="fake",
    digest="0" * 64,
    directory="",
    context_tokens=4096,
    eos_token_ids=[],
    generation=GenerationDefaults(temperature=0, top_p=1, top_k=0, repetition_penalty=1),
    quantization="none",
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("serve")(serve)


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings file.", metavar="FILE", readable=False)] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (server.host).")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port (server.port).")] = None,
    model: Annotated[str | None, typer.Option(help="Serve this installed model (models.preferred).")] = None,
    pipeline: Annotated[str | None, typer.Option(help="continuous_batching, llm or fake (engine.pipeline).")] = None,
    level: Annotated[str | None, typer.Option(help="debug, info, warning or error (logging.level).")] = None,
) -> None:
    """Serve the preferred installed model until SIGTERM or Ctrl-C.

    Exit status: 0 after a drain; 1 where it can't start now (port in use, engine fails); 78 where a setting or
    the model is wrong.
    """
    flags: dict[str, object] = {
        "server.host": host,
        "server.port": port,
        "models.preferred": None if model is None else [model],
        "engine.pipeline": pipeline,
        "logging.level": level,
    }
    from appliance.api.activation import inherited_sockets
    from appliance.api.listener import Listeners
    from appliance.api.turning_away import turned_away
    from appliance.cli.not_started import told_to_the_journal
    from appliance.config import load
    from appliance.config.certificate import open_certificate
    from appliance.observability.notify import microseconds, open_notifier

    inherited: list[InheritedSocket] = []
    with turned_away(inherited), told_to_the_journal(), open_notifier() as notifier:
        inherited += inherited_sockets()  # before there is any child
        listeners = Listeners(inherited)
        notifier.tell(STATUS="reading the model", EXTEND_TIMEOUT_USEC=microseconds(READING_MAX_S))
        reread = partial(load, config, flags)
        effective = reread()
        settings = effective.settings
        certificate = open_certificate(settings.server)
        choice, served = choose(settings, model)
        budget, tuning = _budget(effective, served)

        import asyncio

        from appliance.api.operator import tell_untrustworthy
        from appliance.api.overruled import tell_overruled
        from appliance.api.state import Daemon
        from appliance.observability.log_writer import open_log
        from appliance.observability.logs import fields

        with open_log(settings.logging.level, settings.logging.format):
            choice.tell_passed_over()
            if budget is not None:
                total_bytes = budget.total_bytes
                log.info("memory budget", extra=fields(total_bytes=total_bytes, **msgspec.structs.asdict(budget)))
            tell_overruled(listeners.inherited, effective)
            tell_untrustworthy(certificate)
            make = partial(Daemon, settings, served, choice, tuning, certificate)
            asyncio.run(_run(make, reread, notifier, listeners))


async def _run(
    make: "Callable[[], Daemon]", reread: "Callable[[], Effective]", notifier: "Notifier", listeners: "Listeners"
) -> None:
    from appliance.api.app import run_daemon
    from appliance.api.operator import Operator
    from appliance.api.service import told_of
    from appliance.cli.warm_up import announce
    from appliance.config.paths import control_socket
    from appliance.control.server import control
    from appliance.observability.notify import watchdog_period_s

    daemon = make()
    configured = daemon.settings.server.control_socket
    operator = Operator(daemon, reread, notifier, listeners.inherited)
    beside = control(control_socket(configured), daemon.switching, operator, required=bool(configured))
    async with told_of(daemon, notifier, watchdog_period_s()):
        await run_daemon(
            daemon, announce=announce, beside=beside, notifier=notifier, listeners=listeners, operator=operator
        )


def choose(settings: "Settings", named: str | None) -> "tuple[Choice, ServedModel]":
    """What is served; every byte of it is read. Raises ConfigError where no model is usable.

    The fake serves no model; where one was chosen with `models use`, it answers under that one's name.
    """
    from appliance.config.paths import store_directory
    from appliance.models.choosing import Choice, read_slots_or_none
    from appliance.models.served import served_model
    from appliance.models.store import Store

    store = Store(store_directory(settings.models.directory))
    choice = Choice(store, settings.models.preferred, only=named)
    if settings.engine.pipeline == "fake" and read_slots_or_none(store, tell_warning).current is None:
        return choice, FAKE_MODEL
    return choice, served_model(choice.first(tell_warning))


def _budget(effective: "Effective", served: ServedModel) -> "tuple[MemoryBudget | None, HostTuning]":
    """What serving takes of memory, None for the fake, and what was tuned here.

    Raises ConfigError where the machine has less. A choice that was measured when there was more is left aside.
    """
    from appliance.errors import ConfigError
    from appliance.models.served import require_memory
    from appliance.models.tuning.applying import HostTuning, read_host_tuning

    engine = effective.settings.engine
    tuning = read_host_tuning(effective, tell_warning)
    try:
        return require_memory(tuning.applied(engine, served.digest), served), tuning
    except ConfigError as error:
        if not tuning.changes(engine, served.digest):
            raise
        budget = require_memory(engine, served)
        tell_warning(f"what `appliance tune` chose does not fit this machine any more, left aside: {error}")
        return budget, HostTuning()
