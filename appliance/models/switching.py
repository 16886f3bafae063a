"""Another installed model takes over from the one that a running engine serves, or nothing changes.

Knows store, slots and engine; knows no socket. Digests are verified, a worker is started beside the first where
memory allows, warmed and asked; the slots change on the disk, and then requests go to it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from appliance.config import EngineSettings, Settings
from appliance.engine.client import EngineClient
from appliance.engine.ipc import Load
from appliance.engine.trial import Trial, TrialAnswer
from appliance.errors import ApplianceError, ReplaceError
from appliance.models.choosing import Choice
from appliance.models.errors import NotSwitched, StoreBusy
from appliance.models.proving import Proof, ask, judged
from appliance.models.served import require_memory, served_model
from appliance.models.slots import Slot, Slots, change_slots, now, slot_of
from appliance.models.store import Installed, Store
from appliance.models.using import Switched, commit, read_writable, switched, wanted
from appliance.models.verification import require_sound
from appliance.observability.events import Event, event
from appliance.observability.logs import fields
from appliance.observability.metrics import Metrics
from appliance.types import ServedModel

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0

Stage = Literal["resolving", "verifying", "loading", "asking", "switching"]
Tell = Callable[[str], None]
Ask = Callable[[Trial, str], Awaitable[TrialAnswer]]


class LastSwitch(Struct, frozen=True, kw_only=True):
    """The last attempt, for the status."""

    model: str | None
    """ID@DIGEST, or as it was asked for where that names nothing."""
    outcome: Literal["switched", "unchanged", "failed"]
    stage: Stage | None
    """In which it failed."""
    reason: str | None
    at: str
    """UTC, ISO 8601."""


class Serving(Protocol):
    """Whose model is changed: a daemon."""

    settings: Settings
    engine: EngineClient
    metrics: Metrics

    @property
    def busy(self) -> bool:
        """Whether answers run."""

    @property
    def model(self) -> ServedModel:
        """What is served now."""

    def engine_settings(self, model: ServedModel) -> EngineSettings:
        """The engine's settings while `model` is served."""

    def load_of(self, model: ServedModel, installed: Installed) -> Load:
        """What a worker is to load, so that `model` is what is served from the moment it takes over."""


class Switching:
    """One switch at a time. It goes on when whoever asked for it is gone."""

    def __init__(self, daemon: Serving, choice: Choice, ask: Ask = ask) -> None:
        self._daemon = daemon
        self._choice = choice
        self.ask = ask
        """What asks the canary."""
        self._task: asyncio.Task[Switched] | None = None
        self.stage: Stage | None = None
        """What is done now; None where nothing is."""
        self.last: LastSwitch | None = None

    @property
    def store(self) -> Store:
        """Whose models can be used."""
        return self._choice.store

    async def use(self, reference: str | None, tell: Tell = lambda _: None) -> Switched:
        """Serve the model that "ID[@DIGEST]" names; None: roll back. `tell` hears of each stage.

        Raises StoreBusy where another switch is under way; ConfigError and ModelError with the reason where nothing
        has changed.
        """
        if self._task is not None and not self._task.done():
            raise StoreBusy("another change of the model is under way; try again when it has ended")
        self._task = asyncio.create_task(self._told(reference, tell))
        self._task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told already
        return await asyncio.shield(self._task)

    def served(self) -> Slot | None:
        """What is served now, where it is one of the store's."""
        model = self._daemon.model
        directory = Path(model.directory)
        here = model.directory and directory.parent.parent == self.store.directory
        return Slot(model.id, directory.name) if here else None

    async def close(self) -> None:
        """End what is under way; call it when the engine has stopped, of which it hears by itself."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ---- one switch -------------------------------------------------------------------------------------

    async def _told(self, reference: str | None, tell: Tell) -> Switched:
        """Do it; log, count and keep what came of it."""
        attempt = _Attempt(self, reference, tell)
        try:
            done = await attempt.run()
        except Exception as error:
            known = isinstance(error, ApplianceError)
            reason = str(error) if known else f"{type(error).__name__}: a defect, see the log"
            name = attempt.name
            # What there is not can't be switched to: whoever asked is told, and nothing is wrong here.
            log.log(
                logging.WARNING if known and self.stage == "resolving" else logging.ERROR,
                "model not switched",
                extra=event(Event.MODEL_NOT_SWITCHED, model=name, stage=self.stage, reason=reason),
                exc_info=None if known else error,
            )
            self._keep(name, "failed", reason)
            if known and not isinstance(error, ReplaceError):
                raise
            raise NotSwitched(reason) from error
        else:
            self._keep(done.model, "unchanged" if done.outcome == "unchanged" else "switched", None)
            _log_switched(done, back=reference is None)
            return done
        finally:
            self.stage = None

    def _keep(self, model: str, outcome: Literal["switched", "unchanged", "failed"], reason: str | None) -> None:
        stage = self.stage if outcome == "failed" else None
        self.last = LastSwitch(model=model, outcome=outcome, stage=stage, reason=reason, at=now())
        self._daemon.metrics.switched(stage or outcome)


def _log_switched(done: Switched, *, back: bool) -> None:
    values = msgspec.structs.asdict(done)
    model = values.pop("model")
    if done.outcome == "unchanged":
        log.info("model switched, it was served already", extra=fields(model=model, **values))
    elif back:
        log.info("model rolled back", extra=event(Event.MODEL_ROLLED_BACK, model=model, **values))
    else:
        log.info("model switched", extra=event(Event.MODEL_SWITCHED, model=model, **values))


class _Attempt:
    """One switch, from the name of a model to its taking over."""

    def __init__(self, switching: Switching, reference: str | None, tell: Tell) -> None:
        self._switching = switching
        self._daemon = switching._daemon
        self._choice = switching._choice
        self._store = switching.store
        self._reference = reference
        self._tell = tell
        self.name = reference or "the previous model"
        self._proof: Proof | None = None
        self._before: Slots | None = None  # what the slots were until they changed
        self._after = Slots()

    async def run(self) -> Switched:
        """Raises ConfigError, ModelError, ReplaceError; then nothing has changed."""
        self._stage("resolving")
        served = self._switching.served()
        model = await asyncio.to_thread(wanted, self._store, self._reference, served)
        slot = slot_of(model.manifest)
        self.name = str(slot)
        self._before = await asyncio.to_thread(read_writable, self._store)
        if slot == served:
            self._after = await asyncio.to_thread(commit, self._store, model, instead_of=None)
            return self._result(slot, "unchanged")
        self._stage("verifying")
        await asyncio.to_thread(require_sound, model.manifest, model.directory)
        served_next = await asyncio.to_thread(served_model, model)
        await asyncio.to_thread(require_memory, self._daemon.engine_settings(served_next), served_next)
        self._stage("loading")
        load = self._daemon.load_of(served_next, model)
        try:
            await self._daemon.engine.replace(load, "model", partial(self._prove, model, served_next, served))
        except BaseException:
            await self._revert()
            raise
        return self._result(slot, "switched")

    async def _prove(self, model: Installed, served: ServedModel, was: Slot | None, trial: Trial) -> None:
        """Ask the worker, and make its model current where it does well. Raises NotSwitched, ReplaceError, and what
        `commit` raises.
        """
        self._stage("asking")
        settings = self._daemon.settings
        busy = self._daemon.busy
        answer = await self._switching.ask(trial, settings.models.canary_prompt)
        busy = busy or self._daemon.busy
        last = self._before.measured if self._before is not None else None
        proof = self._proof = judged(answer, slot_of(model.manifest), served, settings, last, busy=busy)
        self._stage("switching")
        self._after = await asyncio.to_thread(commit, self._store, model, instead_of=was, measured=proof.measured)

    async def _revert(self) -> None:
        """Where the slots have changed and yet the worker did not take over: as they were."""
        kept, changed = self._before, self._after
        if kept is None or changed == Slots():
            return

        def undo(slots: Slots) -> Slots:
            return kept if slots == changed else slots  # somebody else's choice since then stands

        try:
            await asyncio.to_thread(change_slots, self._store.directory, undo)
        except (OSError, ApplianceError) as error:
            log.error("slots not changed back", extra=fields(reason=str(error)))  # noqa: TRY400 # known errors: no traceback

    def _result(self, slot: Slot, outcome: Literal["switched", "unchanged"]) -> Switched:
        return switched(slot, self._after, outcome, self._proof)

    def _stage(self, stage: Stage) -> None:
        self._switching.stage = stage
        self._tell(stage)
