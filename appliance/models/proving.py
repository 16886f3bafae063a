"""A warm worker asked the canary, and whether its model may be served. Knows engine and last measurement; no store."""

import asyncio

from msgspec import Struct

from appliance.config import EngineSettings, Settings
from appliance.engine.ipc import Load, Prepared, Ready, Rejected, Step
from appliance.engine.memory import room_beside
from appliance.engine.trial import Trial, TrialAnswer
from appliance.engine.watched import FailureKind, WatchedWorker
from appliance.errors import ReplaceError
from appliance.models import canary
from appliance.models.errors import NotSwitched
from appliance.models.slots import Measured, Slot, now
from appliance.types import ServedModel


class Proof(Struct, frozen=True, kw_only=True):
    """A model that did well."""

    answer: TrialAnswer
    measured: Measured | None
    """For the slots; None where the answer was too short to be timed, or others ran beside it."""


async def ask(trial: Trial, prompt: str) -> TrialAnswer:
    """The canary, up to canary.TRIES times; the fastest answer. Raises ReplaceError."""
    answers: list[TrialAnswer] = []
    while len(answers) < canary.TRIES:
        answers.append(await trial.ask(prompt, canary.MAX_TOKENS, canary.TIMEOUT_S))
        if not answers[-1].text.strip():
            break
    return max(answers, key=lambda answer: answer.tokens_per_s or 0.0)


def judged(
    answer: TrialAnswer, slot: Slot, served: ServedModel, settings: Settings, last: Measured | None, *, busy: bool
) -> Proof:
    """The proof that `answer` is. Raises NotSwitched where it is not as expected, or too slow after the last.

    `busy`: other answers ran beside it, so that its speed says nothing of the model.
    """
    models, pipeline = settings.models, settings.engine.pipeline
    wrong = canary.nonsense(answer.text, models.canary_expect)
    if wrong is not None:
        raise NotSwitched(
            f"the canary's answer is not what is expected, {wrong}: {canary.shown(answer.text)}; if the model is good "
            "all the same, change models.canary_prompt or models.canary_expect"
        )
    speed = answer.tokens_per_s if answer.tokens >= canary.LEAST_TIMED_TOKENS and not busy else None
    if speed is None:
        return Proof(answer=answer, measured=None)
    if last is not None and last.pipeline not in ("", pipeline):
        last = None
    expected = canary.expected_speed(last, slot, served.weights_read_bytes, models.min_speed_ratio)
    if expected is not None and speed < expected.tokens_per_s:
        raise NotSwitched(
            f"the canary came at {speed:.1f} tokens/s, less than {expected.tokens_per_s:.1f}: {expected.why}; "
            "try again when nothing else works here, or lower models.min_speed_ratio (0 asks for none; a daemon has "
            "its own: appliance reload)"
        )
    return Proof(
        answer=answer,
        measured=Measured(
            slot=slot,
            tokens_per_s=round(speed, 2),
            read_bytes=served.weights_read_bytes,
            at=now(),
            pipeline=pipeline,
        ),
    )


async def ask_alone(load: Load, settings: EngineSettings, prompt: str) -> TrialAnswer:
    """What a worker of its own answers, where no daemon has one; it is gone on return, whatever happens.

    engine.load_timeout_s, engine.stall_timeout_s and the canary's own time bound it. Raises NotSwitched.
    """
    if not await asyncio.to_thread(room_beside, load):
        raise NotSwitched("there is not enough free memory to try the model; free some, or give --no-canary")
    worker = WatchedWorker(load, settings, _Nobody(), on_trial=True)
    life = asyncio.create_task(worker.run())
    try:
        await worker.settled.wait()
        if worker.ready is None:
            await life
            raise NotSwitched(f"the worker did not get ready: {worker.reason}")
        return await ask(Trial(worker), prompt)
    except ReplaceError as error:
        raise NotSwitched(str(error)) from None
    finally:
        worker.stop()
        await asyncio.gather(life, return_exceptions=True)


class _Nobody:
    """The owner of a worker that is only tried: who tries it hears all that counts."""

    def worker_loading(self, worker: WatchedWorker, stage: str) -> None:
        """See WorkerOwner."""

    def worker_ready(self, worker: WatchedWorker, ready: Ready) -> None:
        """See WorkerOwner."""

    def worker_reported(self, worker: WatchedWorker, report: Step | Prepared | Rejected) -> None:
        """See WorkerOwner."""

    def worker_proved(self, worker: WatchedWorker, canary_s: float) -> None:
        """See WorkerOwner."""

    def worker_failed(self, worker: WatchedWorker, kind: FailureKind) -> None:
        """See WorkerOwner."""
