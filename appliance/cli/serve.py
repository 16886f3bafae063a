"""`appliance serve`: settings and an installed model in, a running daemon out. Downloads nothing."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from appliance.types import GenerationDefaults, ServedModel

if TYPE_CHECKING:
    from appliance.config import Settings
    from appliance.engine.memory import MemoryBudget
    from appliance.models.store import Installed

log = logging.getLogger(__name__)

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
    config: Annotated[Path | None, typer.Option(help="Settings file.", metavar="FILE")] = None,
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
    from appliance.config import load

    flags: dict[str, object] = {
        "server.host": host,
        "server.port": port,
        "models.preferred": None if model is None else [model],
        "engine.pipeline": pipeline,
        "logging.level": level,
    }
    effective = load(config, flags)
    settings = effective.settings
    served, check = FAKE_MODEL, _nothing
    if settings.engine.pipeline != "fake":
        installed = _choose_model(settings)
        served, check = served_model(installed), partial(_verify, installed)
    check()
    budget = _budget(settings, served)

    import asyncio

    from appliance.api.app import run_daemon
    from appliance.cli.warm_up import announce
    from appliance.observability.logs import fields, logging_to_stderr

    with logging_to_stderr(settings.logging.level, settings.logging.format):
        if budget is not None:
            log.info("memory budget", extra=fields(total_bytes=budget.total_bytes, **msgspec.structs.asdict(budget)))
        asyncio.run(run_daemon(settings, served, announce=announce, check_model=check))


def _nothing() -> None:
    """The fake has no files to check."""


def _choose_model(settings: "Settings") -> "Installed":
    """The preferred installed model. Raises ConfigError."""
    from appliance.config.paths import store_directory
    from appliance.models.store import Store

    return Store(store_directory(settings.models.directory)).choose(settings.models.preferred)


def _verify(installed: "Installed") -> None:
    """Read every byte of the model. Raises ConfigError with the first thing that is wrong."""
    from appliance.models.verification import require_sound

    for warning in require_sound(installed.manifest, installed.directory):
        print(f"appliance: warning: {warning}", file=sys.stderr)


def _budget(settings: "Settings", served: ServedModel) -> "MemoryBudget | None":
    """What serving takes of memory; None for the fake. Raises ConfigError where the machine has less."""
    if settings.engine.pipeline == "fake":
        return None
    from appliance.engine.memory import memory_budget, require_room, require_rss_limit
    from appliance.observability.memory import memory_limit_bytes

    tokens = settings.engine.kv_cache_tokens
    budget = memory_budget(Path(served.directory), tokens)
    require_room(budget, tokens, memory_limit_bytes())
    require_rss_limit(budget, settings.engine.max_rss_bytes)
    return budget


def served_model(installed: "Installed") -> ServedModel:
    """What the daemon needs to know of an installed model."""
    from appliance.engine.weights import weights_read_bytes

    manifest = installed.manifest
    weights = manifest.files.get("openvino_model.bin")
    return ServedModel(
        id=manifest.id,
        digest=manifest.digest,
        directory=str(installed.directory),
        context_tokens=manifest.context_tokens,
        eos_token_ids=list(manifest.eos_token_ids),
        generation=manifest.generation,
        quantization=manifest.quantization,
        weights_bytes=weights.size_bytes if weights is not None else None,
        weights_read_bytes=weights_read_bytes(installed.directory),
    )
