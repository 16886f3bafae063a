"""What of the tuning file counts for a model here; explicit settings win. Keeps records in memory, measures nothing."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from appliance.config import Effective, EngineSettings
from appliance.config.paths import tuning_file
from appliance.models.manifest import DIGEST_NAME_LENGTH
from appliance.models.tuning.record import Key, Tuned, host_key, read_tuning

_HOST = ("cpu_model", "cores_usable", "isa_cap", "openvino", "openvino_genai")
_WORDS = {
    "cpu_model": "CPU", "cores_usable": "number of usable CPUs", "isa_cap": "ONEDNN_MAX_CPU_ISA",
    "openvino": "OpenVINO", "openvino_genai": "OpenVINO GenAI",
}  # fmt: skip


class HostTuning:
    """The choices that were measured on this host, as the daemon read them at its start."""

    def __init__(
        self,
        records: Sequence[Tuned] = (),
        *,
        explicit: Collection[str] = (),
        key_of: Callable[[str, str], Key] = host_key,
    ) -> None:
        """`explicit`: "section.key" of what the operator has set; that is never changed."""
        self._records = {record.key: record for record in records}
        self._explicit = frozenset(explicit)
        self._here = key_of("", "") if records else None

    def of(self, settings: EngineSettings, model_digest: str) -> Tuned | None:
        """What was chosen for that model here; None where nobody has measured."""
        if self._here is None:
            return None
        return self._records.get(self._key(self._here, settings, model_digest))

    def changes(self, settings: EngineSettings, model_digest: str) -> dict[str, int | str]:
        """The settings of the section engine that come of it, by name."""
        tuned = self.of(settings, model_digest)
        chosen = {} if tuned is None else tuned.settings
        return {name: value for name, value in chosen.items() if f"engine.{name}" not in self._explicit}

    def applied(self, settings: EngineSettings, model_digest: str) -> EngineSettings:
        """`settings` with what was chosen for that model."""
        return msgspec.structs.replace(settings, **self.changes(settings, model_digest))

    def misfit(self, settings: EngineSettings, model_digest: str) -> str | None:
        """Why there are choices and none counts; None where one does, or there are none."""
        if self._here is None or self.of(settings, model_digest) is not None:
            return None
        wanted = self._key(self._here, settings, model_digest)
        nearest = max(self._records, key=lambda key: (key.model_digest == wanted.model_digest, _alike(key, wanted)))
        differing = [name for name in _HOST if getattr(nearest, name) != getattr(wanted, name)]
        if differing:
            name = differing[0]
            return f"measured with another {_WORDS[name]} ({getattr(nearest, name) or 'none'}); run: appliance tune"
        return "measured for another model or engine.pipeline; run: appliance tune"

    @staticmethod
    def _key(here: Key, settings: EngineSettings, model_digest: str) -> Key:
        digest = model_digest[:DIGEST_NAME_LENGTH]
        return msgspec.structs.replace(here, pipeline=settings.pipeline, model_digest=digest)


def _alike(one: Key, other: Key) -> int:
    return sum(getattr(one, name) == getattr(other, name) for name in _HOST)


def read_host_tuning(effective: Effective, tell: Callable[[str], None], file: Path | None = None) -> HostTuning:
    """What was measured on this host, beside the settings in force; `tell` hears of a file that is of no use."""
    records = read_tuning(tuning_file() if file is None else file, tell)
    return HostTuning(records, explicit=effective.origins)
