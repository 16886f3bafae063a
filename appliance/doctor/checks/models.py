"""The models: what is current, what is marked bad, whether OpenVINO and what was tuned fit. Reads no weights."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from appliance.doctor.checks.served import host_tuning, served_model
from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.reach import unreadable
from appliance.doctor.surroundings import Surroundings
from appliance.errors import ConfigError
from appliance.models.choosing import Candidates, candidates
from appliance.models.errors import ManifestTooNew, SlotsDamaged, StoreUnusable, mending_command
from appliance.models.manifest import came_in_bundle, installed_versions
from appliance.models.slots import SLOTS_NAME, Slots, read_slots, slot_of
from appliance.models.store import Installed, Store
from appliance.models.verification import compare_releases

MAKE_ONE = "appliance models pull --preferred, or without a network: appliance models install BUNDLE.tar"
AS_ROOT = "run it as root, or as the service's account"
RELEASE_PARTS = 3  # of OpenVINO's and GenAI's releases that have to be the same


def check_model(here: Surroundings) -> Finding:
    """Whether what is installed and chosen can be read, and if so what of it a start would serve."""
    store = here.store
    try:
        slots = read_slots(store.directory)
        found = candidates(store, here.settings.models.preferred, slots)
    except (SlotsDamaged, ManifestTooNew, StoreUnusable) as error:
        if isinstance(error, SlotsDamaged | StoreUnusable) and "can't be read" in str(error):
            return unknown("model", str(error).partition("; ")[0], AS_ROOT)
        return yellow("model", str(error), "appliance models use ID writes it anew")
    facts = _facts(here, slots)
    hidden = unreadable(here, store.directory) or unreadable(here, *_files(store, found.models), below=True)
    if hidden is not None:
        return red("model", f"the service's account {here.service['User']} can't read {hidden}",
                   f"chown -R {here.service['User']}: {store.directory}; chmod -R u+rX {store.directory}",
                   **facts)  # fmt: skip
    return _would_serve(here, slots, found, facts)


def _would_serve(here: Surroundings, slots: Slots, found: Candidates, facts: dict[str, object]) -> Finding:
    """The model of the next start, marks of those that failed, and whether another is served."""
    if not found.models:
        if here.settings.engine.pipeline == "fake":
            return green("model", "none, and none is needed (engine.pipeline = fake)", **facts)
        return red("model", f"none that may be served is installed in {here.store.directory}",
                   MAKE_ONE, **facts)  # fmt: skip
    first = slot_of(found.models[0].manifest)
    if (why := slots.why_bad(first)) is not None:
        return red("model", f"{first} is marked bad and there is no other: {why}",
                   f"{_mend(found.models[0])}; or install another, and: appliance models use ID", **facts)  # fmt: skip
    served = _served(here)
    if served is not None and served != str(first):
        return yellow("model", f"{served} is served, {first} would be after a restart",
                      f"appliance models use {first}, or appliance models use {served}", **facts)  # fmt: skip
    if slots.bad:
        mark = slots.bad[-1]
        return yellow("model", f"{first}; marked bad: {', '.join(str(bad.slot) for bad in slots.bad)} ({mark.reason})",
                      f"appliance models remove {mark.slot.id}, or mend it and: appliance models use {mark.slot}",
                      **facts)  # fmt: skip
    if found.unreadable:
        return yellow(
            "model",
            f"{first}; of another the manifest is damaged: {found.unreadable[0].error}",
            f"appliance models verify, then appliance models remove {found.unreadable[0].id}",
            **facts,
        )
    return green("model", f"{first}" + (f", before it {slots.previous}" if slots.previous else ""), **facts)


def check_versions(here: Surroundings) -> Finding:
    """OpenVINO against GenAI, against what the model was written by, and against what runs."""
    installed = installed_versions()
    if installed is None:
        return red("versions", "OpenVINO or OpenVINO GenAI is not installed here", "install the appliance again")
    pair = {name: metadata.version(name) for name in ("openvino", "openvino-genai")}
    facts = {"installed": pair, "running": here.of_status("engine", "versions")}
    if _release(pair["openvino"]) != _release(pair["openvino-genai"]):
        return red("versions", f"OpenVINO {pair['openvino']} and GenAI {pair['openvino-genai']} do not belong together",
                   "install the appliance again: its pins name a pair that does", **facts)  # fmt: skip
    running = here.of_status("engine", "versions") or {}
    stale = [f"{name} {version}" for name, version in running.items() if pair.get(name, version) != version]
    if stale:
        return yellow("versions", f"the daemon still runs {', '.join(stale)}", "systemctl restart appliance", **facts)
    try:
        model = served_model(here)
    except (StoreUnusable, ConfigError) as error:
        return unknown(
            "versions", f"what wrote the model is not known: {str(error).partition('; ')[0]}", AS_ROOT, **facts
        )
    shown = f"OpenVINO {pair['openvino']}, GenAI {pair['openvino-genai']}"
    if model is None:
        return green("versions", shown, **facts)
    facts["model_written_by"] = model.manifest.openvino
    newer, older = compare_releases(model.manifest, installed, f"run: {_mend(model)}")
    if newer:
        return red("versions", newer[0].partition("; ")[0], f"upgrade the appliance, or {_mend(model)}", **facts)
    if older:
        return yellow("versions", older[0].partition("; ")[0], f"it can be read; to renew it: {_mend(model)}", **facts)
    return green("versions", f"{shown}, as the model's", **facts)


def check_tuning(here: Surroundings) -> Finding:
    """Whether what `appliance tune` chose is for this host, these releases and this model."""
    told: list[str] = []
    tuning = host_tuning(here, told)
    if told:
        hidden = "can't be read" in told[0]
        return unknown("tuning", told[0], AS_ROOT) if hidden else yellow("tuning", told[0], "appliance tune")
    digest = here.of_status("model", "digest")
    if digest is None:
        try:
            model = served_model(here)
        except (StoreUnusable, ConfigError) as error:
            return unknown("tuning", str(error).partition("; ")[0], AS_ROOT)
        digest = "0" * 64 if model is None else model.manifest.digest
    engine = here.settings.engine
    tuned = tuning.of(engine, digest)
    if tuned is not None:
        changes = tuning.changes(engine, digest)
        chosen = ", ".join(f"{name} = {value}" for name, value in changes.items()) or "the defaults are best"
        return green("tuning", f"{tuned.profile}, {tuned.at[:10]}: {chosen}", changes=changes, at=tuned.at)
    misfit = tuning.misfit(engine, digest)
    if misfit is not None:
        return yellow("tuning", f"left aside: {misfit.partition('; ')[0]}", "appliance tune, while nobody needs it")
    return green("tuning", "never tuned: the defaults are used")


def _facts(here: Surroundings, slots: Slots) -> dict[str, object]:
    return {
        "store": str(here.store.directory),
        "current": None if slots.current is None else str(slots.current),
        "previous": None if slots.previous is None else str(slots.previous),
        "bad": [{"model": str(bad.slot), "reason": bad.reason, "since": bad.since} for bad in slots.bad],
        "served": _served(here),
    }


def _files(store: Store, models: Sequence[Installed]) -> list[Path]:
    """Those that are there of what a start reads."""
    slots = store.directory / SLOTS_NAME
    return [model.directory for model in models] + ([slots] if slots.exists() else [])


def _served(here: Surroundings) -> str | None:
    """ID@DIGEST, where it is one of the store's."""
    model = here.of_status("model") or {}
    digest = str(model.get("digest", ""))[:16]
    return f"{model.get('id')}@{digest}" if digest.strip("0") else None


def _mend(model: Installed) -> str:
    return mending_command(model.id, bundled=came_in_bundle(model.directory))


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:RELEASE_PARTS])
