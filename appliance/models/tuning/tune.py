"""One tuning: what may be tried here, the search, the record. Writes the host's tuning file and nothing else."""

import asyncio
import os
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

import psutil
from msgspec import Struct

from appliance.config import EngineSettings
from appliance.engine.weights import int4_group_sizes
from appliance.errors import ConfigError
from appliance.models.children import run_until_terminated
from appliance.models.durable import make_directory
from appliance.models.errors import ModelError
from appliance.models.locking import free_lock, take_lock
from appliance.models.manifest import DIGEST_NAME_LENGTH
from appliance.models.progress import Progress
from appliance.models.served import require_memory
from appliance.models.slots import now
from appliance.models.tuning.candidates import Cpu, dimensions
from appliance.models.tuning.choosing import Measure, Search
from appliance.models.tuning.record import Figures, Profile, Tuned, host_key, read_tuning, write_tuning
from appliance.models.tuning.trial import TooLittleMemory, measure
from appliance.observability.host import cpu_info
from appliance.types import ServedModel

LOCK_NAME = ".tuning.lock"


class TuningNotWritten(ModelError):
    """The state directory can't be written."""


class Plan(Struct, frozen=True, kw_only=True):
    """What is tuned, for what, and how long that may take."""

    engine: EngineSettings
    explicit: Collection[str]
    """`section.key` of what the operator has set."""
    model: ServedModel
    profile: Profile
    seconds: float
    file: Path


def tune(plan: Plan, progress: Progress, measure_with: Measure | None = None) -> Tuned:
    """Measure, choose, and write the choice to the plan's file; an interruption leaves it as it was.

    `measure_with`: instead of a worker of the engine. Raises SpeedNotMeasured, TooLittleMemory, TuningNotWritten,
    StoreBusy where another tuning runs.
    """
    directory = plan.file.parent
    try:
        make_directory(directory)
        lock = take_lock(directory / LOCK_NAME, wait_s=0, on_wait=lambda _: None)  # known before minutes of work
    except OSError as error:
        raise _not_written(plan.file, error) from None
    try:
        record = _searched(plan, progress, measure_with)
        try:
            write_tuning(plan.file, record, read_tuning(plan.file, progress.note))
        except OSError as error:
            raise _not_written(plan.file, error) from None
    finally:
        free_lock(lock)
    return record


def _not_written(file: Path, error: OSError) -> TuningNotWritten:
    return TuningNotWritten(f"{file} can't be written: {error.strerror}")


def _searched(plan: Plan, progress: Progress, measure_with: Measure | None) -> Tuned:
    """Raises SpeedNotMeasured, TooLittleMemory, OSError."""
    model, began = plan.model, time.monotonic()
    tried = dimensions(
        plan.profile,
        plan.engine,
        _cpu(),
        int4_group_sizes(Path(model.directory)),
        plan.explicit,
    )
    with_worker = measure_with or partial(measure, Path(model.directory), plan.profile)

    def tell(done: int, total: int, label: str) -> None:
        progress.stage(f"tuning {model.id} ({plan.profile}): {label}")
        progress.count(done, total)

    search = Search(
        plan.profile,
        plan.engine,
        tried,
        partial(_measure_servable, model, with_worker),
        tell,
        seconds=plan.seconds,
    )
    settings, evidence = run_until_terminated(search.run())
    return Tuned(
        key=host_key(plan.engine.pipeline, model.digest),
        model=f"{model.id}@{model.digest[:DIGEST_NAME_LENGTH]}",
        profile=plan.profile,
        settings=settings,
        at=now(),
        took_s=round(time.monotonic() - began, 1),
        evidence=evidence,
    )


async def _measure_servable(model: ServedModel, with_worker: Measure, settings: EngineSettings) -> Figures:
    """With a worker that has a small KV cache. Raises TooLittleMemory where the daemon's would not fit."""
    try:
        await asyncio.to_thread(require_memory, settings, model)
    except ConfigError as error:
        raise TooLittleMemory(str(error)) from None
    return await with_worker(settings)


def _cpu() -> Cpu:
    usable = len(os.sched_getaffinity(0))
    return Cpu(
        cores_physical=psutil.cpu_count(logical=False) or usable,
        cores_usable=usable,
        flags=frozenset(cpu_info().get("flags", "").split()),
    )
