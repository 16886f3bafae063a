"""Models and workers that are lost after a change, or instead of one: what is served then, and what the slots say."""

import asyncio
import logging
from pathlib import Path

import pytest

from appliance.api.state import Daemon
from appliance.engine.trial import Trial, TrialAnswer
from appliance.models.choosing import Choice
from appliance.models.errors import NotSwitched
from appliance.models.fake import install_fake
from appliance.models.served import served_model
from appliance.models.slots import Slots, read_slots
from appliance.models.store import Store
from appliance.models.using import use_at_next_start
from tests.support.daemon import settings, until
from tests.support.switching import at, served_id, serving, slot, switching, use


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    install_fake(store, "old")
    return store


async def test_a_worker_that_is_lost_once_the_slots_have_changed_has_them_changed_back(store: Store) -> None:
    new = install_fake(store, "new")
    async with serving(store) as appliance:
        daemon = appliance.daemon

        async def ask_then_die(trial: Trial, prompt: str) -> TrialAnswer:
            answer: TrialAnswer = await at(10.0)(trial, prompt)
            starting = daemon.engine.starting
            assert starting is not None
            starting.kill()
            await starting.ended.wait()
            return answer

        switching(appliance).ask = ask_then_die
        with pytest.raises(NotSwitched, match="the new worker was lost"):
            await use(appliance, "new")
        assert read_slots(store.directory) == Slots()
        assert await served_id(appliance) == "old"
        switching(appliance).ask = at(10.0)
        await use(appliance, "new")
        assert read_slots(store.directory).current == slot(new)


async def test_a_worker_that_is_lost_later_comes_back_with_the_new_model(store: Store) -> None:
    install_fake(store, "new")
    async with serving(store) as appliance, appliance.connect() as peer:
        await use(appliance, "new")
        await peer.chat("r1", "fake:crash")
        await peer.until("error")
        await appliance.ready()
        assert await served_id(appliance) == "new"


async def test_a_model_that_crashes_twice_at_start_is_marked_bad_and_the_previous_serves(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    old = store.choose(["old"])
    bad = install_fake(store, "bad", b"fake:load-crash")
    use_at_next_start(store, ["old"], "bad")
    async with serving(store) as appliance:
        assert await served_id(appliance) == "old"
        assert appliance.daemon.engine.losses == 2
        await until(lambda: read_slots(store.directory).bad != ())
        slots = read_slots(store.directory)
        assert (slots.current, [mark.slot for mark in slots.bad]) == (slot(old), [slot(bad)])
        assert "exit status 71" in slots.bad[0].reason
        _, status = await appliance.get("/v1/status")
        assert status["slots"]["bad"][0]["model"] == str(slot(bad))
    assert any(record.msg == "model fails, another is used" for record in caplog.records)
    async with serving(store) as appliance:
        assert (appliance.daemon.engine.losses, await served_id(appliance)) == (0, "old")


async def test_a_model_damaged_under_a_running_daemon_makes_way_when_its_worker_is_lost(store: Store) -> None:
    new = install_fake(store, "new")
    async with serving(store) as appliance, appliance.connect() as peer:
        await use(appliance, "new")
        (new.directory / "openvino_model.bin").write_bytes(b"Weights")
        await peer.chat("r1", "fake:crash")
        await peer.until("error")
        await appliance.ready()
        assert await served_id(appliance) == "old"
        await until(lambda: read_slots(store.directory).bad != ())


async def test_a_model_that_does_not_fit_in_memory_takes_no_failed_ones_place(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger("appliance.models.choosing"), "disabled", False)  # as others may leave it
    failing = install_fake(store, "failing")
    choice = Choice(store, ["failing", "old"])
    model = served_model(choice.first(lambda _: None))
    daemon = Daemon(settings(engine={"pipeline": "continuous_batching"}), model, choice)
    monkeypatch.setattr("appliance.models.served.memory_limit_bytes", lambda: 300 << 20)
    assert await asyncio.to_thread(daemon.fall_back, "it crashed twice") is None
    assert choice.installed == failing
    (told,) = [record for record in caplog.records if record.msg == "model left aside"]
    assert "would be used instead, but can't be: model old: engine.kv_cache_tokens" in str(told.__dict__)
