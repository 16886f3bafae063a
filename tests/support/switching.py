"""A daemon whose model is changed: what it is asked, and what it answers by. Knows no verdict."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from appliance.engine.trial import Trial, TrialAnswer
from appliance.models.choosing import Choice
from appliance.models.served import served_model
from appliance.models.slots import Slot, slot_of
from appliance.models.store import Installed, Store
from appliance.models.switching import Switching
from appliance.models.using import Switched
from tests.support.daemon import Appliance, running, settings


def slot(model: Installed) -> Slot:
    return slot_of(model.manifest)


@contextlib.asynccontextmanager
async def serving(store: Store, **sections: dict[str, Any]) -> AsyncIterator[Appliance]:
    """A ready daemon that serves what it chooses of `store`. Speed is of no matter unless a test says so: the fake's
    is that of the machine's noise.
    """
    sections["models"] = {"min_speed_ratio": 0} | sections.get("models", {})
    choice = Choice(store, ["old"])
    model = served_model(await asyncio.to_thread(choice.first, lambda _: None))
    async with running(settings(**sections), model, choice) as appliance:
        await appliance.ready()
        yield appliance


def switching(appliance: Appliance) -> Switching:
    assert appliance.daemon.switching is not None
    return appliance.daemon.switching


async def use(appliance: Appliance, reference: str | None) -> Switched:
    return await switching(appliance).use(reference)


async def served_id(appliance: Appliance) -> str:
    """What a request is answered by now."""
    async with appliance.connect() as peer:
        await peer.chat("r1", "one two", params={"max_tokens": 2})
        text, done = await peer.answer("r1")
        assert text == "one two "
        model: str = done["model"]
        assert peer_model(peer.hello) == model
        return model


def peer_model(hello: dict[str, Any]) -> str:
    name: str = hello["model"]["id"]
    return name


def at(tokens_per_s: float) -> Any:
    """A canary that is answered well, at that speed."""

    async def ask(trial: Trial, prompt: str) -> TrialAnswer:
        return TrialAnswer(text="Paris is a city.", tokens=32, ttft_s=0.1, tokens_per_s=tokens_per_s)

    return ask
