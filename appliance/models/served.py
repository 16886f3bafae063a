"""An installed model as a daemon answers with it, and whether this machine has the memory. Reads the IR; no engine."""

from pathlib import Path

from appliance.config import EngineSettings
from appliance.engine.memory import MemoryBudget, memory_budget, require_room, require_rss_limit
from appliance.engine.weights import weights_read_bytes
from appliance.errors import ConfigError
from appliance.models.store import Installed
from appliance.observability.memory import memory_limit_bytes
from appliance.types import ServedModel


def served_model(installed: Installed) -> ServedModel:
    """What the daemon needs to know of an installed model."""
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


def require_memory(settings: EngineSettings, served: ServedModel) -> MemoryBudget | None:
    """What serving takes of memory; None for the fake. Raises ConfigError where the machine has less; OSError."""
    if settings.pipeline == "fake":
        return None
    budget = memory_budget(Path(served.directory), settings.kv_cache_tokens, settings.kv_cache_precision)
    try:
        require_room(budget, settings.kv_cache_tokens, memory_limit_bytes())
        require_rss_limit(budget, settings.max_rss_bytes)
    except ConfigError as error:
        raise ConfigError(f"model {served.id}: {error}") from None
    return budget
