"""Which installed model the other checks are about. Reads slots and manifests; judges nothing."""

from appliance.config import EngineSettings
from appliance.doctor.surroundings import Surroundings
from appliance.models.choosing import candidates, read_slots_or_none
from appliance.models.manifest import DIGEST_NAME_LENGTH
from appliance.models.store import Installed
from appliance.models.tuning.applying import HostTuning
from appliance.models.tuning.record import Key, host_key, read_tuning


def served_model(here: Surroundings) -> Installed | None:
    """What the daemon serves, else what a start would take; None where there is none.

    Raises StoreUnusable, ConfigError.
    """
    store = here.store
    digest = str(here.of_status("model", "digest") or "")[:DIGEST_NAME_LENGTH]
    slots = read_slots_or_none(store, lambda _: None)
    models = candidates(store, here.settings.models.preferred, slots).models
    served = (model for model in store.list() if model.directory.name == digest) if digest else iter(())
    return next(served, None) or (models[0] if models else None)


def host_tuning(here: Surroundings, tell: list[str]) -> HostTuning:
    """What was tuned, as the daemon sees it; `tell` gets what is wrong with the file."""

    def key_of(pipeline: str, digest: str) -> Key:
        key = host_key(pipeline, digest)
        cap = here.of_status("engine", "isa_cap") if here.status is not None else key.isa_cap
        return Key(
            cpu_model=key.cpu_model,
            cores_usable=key.cores_usable,
            isa_cap=cap or "",
            openvino=key.openvino,
            openvino_genai=key.openvino_genai,
            pipeline=key.pipeline,
            model_digest=key.model_digest,
        )

    records = read_tuning(here.tuning_file, tell.append)
    return HostTuning(records, explicit=here.effective.origins, key_of=key_of)


def engine_settings(here: Surroundings, digest: str) -> EngineSettings:
    """The section engine as serving the model with `digest` uses it."""
    return host_tuning(here, []).applied(here.settings.engine, digest)
