"""Another model takes over in a running daemon, or nothing changes: what clients, operators and the store see."""

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from appliance.engine.replacing import Handover
from appliance.errors import ConfigError
from appliance.models.errors import ModelDamaged, ModelError, NotInstalled, NotSwitched, StoreBusy
from appliance.models.fake import install_fake
from appliance.models.slots import Measured, Slot, Slots, change_slots, now, read_slots
from appliance.models.store import Store
from tests.support.daemon import Ends, until
from tests.support.switching import at, served_id, serving, slot, switching, use

STORY = "again and again fake:step-ms=5"
HELD = {"min_speed_ratio": 0.5}
BETWEEN = Handover(room_beside=lambda load: False, idle_wait_s=0.1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    install_fake(store, "old")
    return store


async def test_a_model_takes_over_and_everybody_is_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    new = install_fake(store, "new")
    async with serving(store) as appliance:
        stages: list[str] = []
        old = store.choose(["old"])
        switched = await switching(appliance).use("new", stages.append)
        assert (switched.outcome, switched.model, switched.previous) == ("switched", str(slot(new)), str(slot(old)))
        assert (switched.tokens_per_s or 0) > 0
        assert stages == ["resolving", "verifying", "loading", "asking", "switching"]
        assert await served_id(appliance) == "new"
        _, status = await appliance.get("/v1/status")
        assert (status["model"]["id"], status["model"]["digest"]) == ("new", new.manifest.digest)
        assert status["slots"] == {"current": str(slot(new)), "previous": str(slot(old)), "bad": []}
        assert status["switch"]["stage"] is None
        assert (status["switch"]["last"]["outcome"], status["switch"]["last"]["reason"]) == ("switched", None)
        assert appliance.daemon.metrics.registry.get_sample_value(
            "appliance_model_info", {"id": "new", "digest": new.manifest.digest}
        )
        assert await appliance.metric("appliance_model_switches_total") == 1
        measured = read_slots(store.directory).measured
        assert measured is not None
        assert measured.slot == slot(new)
    assert any(record.msg == "model switched" for record in caplog.records)


async def test_answers_under_way_are_finished_by_the_old_model_and_those_that_wait_come_from_the_new(
    store: Store,
) -> None:
    install_fake(store, "new")
    async with serving(store, engine={"max_running_requests": 1}) as appliance, appliance.connect() as peer:
        seen = Ends(peer)
        await peer.chat("runs", STORY, params={"max_tokens": 200})
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        await peer.chat("waits", "its turn", params={"max_tokens": 2})
        await seen.until_queued("waits")
        await use(appliance, "new")
        await seen.until("runs", "waits")
        assert seen.codes("runs", "waits") == ["length", "length"]
        assert [seen.ends[name]["model"] for name in ("runs", "waits")] == ["old", "new"]


async def test_where_memory_has_room_for_one_the_change_is_made_all_the_same(store: Store) -> None:
    install_fake(store, "new")
    async with serving(store) as appliance, appliance.connect() as peer:
        appliance.daemon.engine.replacer.handover = BETWEEN
        seen = Ends(peer)
        await peer.chat("runs", STORY, params={"max_tokens": 50})
        await until(lambda: appliance.daemon.dispatcher.running == 1)
        await use(appliance, "new")
        await seen.until("runs")
        assert seen.codes("runs") == ["length"]
        assert await served_id(appliance) == "new"


FAILURES = {
    "crash at load": (b"fake:load-crash", "loading", "exit status 71"),
    "never loaded": (b"fake:load-ms=60000", "loading", "not ready within 2 s (engine.load_timeout_s)"),
    "nonsense": (
        b"fake:nonsense",
        "asking",
        "the canary's answer is not what is expected, it says the same over and over: '!!!!",
    ),
}


@pytest.mark.parametrize("between", [False, True], ids=["beside", "between"])
@pytest.mark.parametrize("name", FAILURES)
async def test_a_model_that_fails_changes_nothing_and_the_reason_is_told(
    store: Store, name: str, between: bool, caplog: pytest.LogCaptureFixture
) -> None:
    weights, stage, words = FAILURES[name]
    bad = install_fake(store, "bad", weights)
    async with serving(store, engine={"load_timeout_s": 2.0}) as appliance:
        if between:
            appliance.daemon.engine.replacer.handover = BETWEEN
        with pytest.raises(NotSwitched) as caught:
            await use(appliance, "bad")
        assert words in str(caught.value)
        await appliance.ready()
        assert await served_id(appliance) == "old"
        _, status = await appliance.get("/v1/status")
        last = status["switch"]["last"]
        assert (last["model"], last["outcome"], last["stage"]) == (str(slot(bad)), "failed", stage)
        assert words in last["reason"]
        assert (
            appliance.daemon.metrics.registry.get_sample_value("appliance_model_switches_total", {"outcome": stage})
            == 1
        )
        assert read_slots(store.directory) == Slots()
    (told,) = [record for record in caplog.records if record.msg == "model not switched"]
    assert words in told.__dict__["appliance_fields"]["reason"]


async def test_a_canary_without_the_expected_word_is_refused_and_another_may_be_expected(store: Store) -> None:
    install_fake(store, "new")
    models = {"canary_prompt": "Guten Tag, was gibt es Neues heute?", "canary_expect": "Bonjour"}
    async with serving(store, models=models) as appliance:
        with pytest.raises(NotSwitched, match=r"does not contain 'Bonjour' \(models.canary_expect\)"):
            await use(appliance, "new")
    async with serving(store, models=models | {"canary_expect": "guten tag"}) as appliance:
        await use(appliance, "new")
        assert await served_id(appliance) == "new"


async def test_a_model_too_slow_beside_the_last_good_one_is_refused(store: Store) -> None:
    new, third = install_fake(store, "new"), install_fake(store, "third")
    async with serving(store, models={"min_speed_ratio": 0.5}) as appliance:
        switching(appliance).ask = at(40.0)
        await use(appliance, "new")
        switching(appliance).ask = at(19.0)
        with pytest.raises(
            NotSwitched, match=r"came at 19\.0 tokens/s, less than 20\.0: 0\.5 \(models.min_speed_ratio\)"
        ):
            await use(appliance, "third")
        assert await served_id(appliance) == "new"
        assert read_slots(store.directory).current == slot(new)
        switching(appliance).ask = at(21.0)
        await use(appliance, "third")
        measured = read_slots(store.directory).measured
        assert measured is not None
        assert (measured.slot, measured.tokens_per_s) == (slot(third), 21.0)


async def test_no_ratio_asks_for_no_speed(store: Store) -> None:
    install_fake(store, "new")
    install_fake(store, "third")
    async with serving(store, models={"min_speed_ratio": 0}) as appliance:
        switching(appliance).ask = at(40.0)
        await use(appliance, "new")
        switching(appliance).ask = at(0.1)
        await use(appliance, "third")


async def test_what_is_damaged_or_not_there_is_refused_before_a_worker_is_started(store: Store) -> None:
    bad = install_fake(store, "bad")
    (bad.directory / "openvino_model.bin").write_bytes(b"Weights")
    newer = install_fake(store, "newer")
    file = newer.directory / "manifest.json"
    file.write_text(file.read_text("utf-8").replace('"format": 1', '"format": 2'), "utf-8")
    async with serving(store) as appliance:
        pid = appliance.daemon.engine.worker_pid
        for reference, error, stage in (
            ("none", NotInstalled, "resolving"),
            ("bad", ModelDamaged, "verifying"),
            ("newer", ConfigError, "resolving"),
            ("old@ffff", NotInstalled, "resolving"),
            (None, NotInstalled, "resolving"),
        ):
            with pytest.raises(error):
                await use(appliance, reference)
            last = switching(appliance).last
            assert last is not None
            assert (last.outcome, last.stage) == ("failed", stage)
        assert (appliance.daemon.engine.worker_pid, appliance.daemon.engine.losses) == (pid, 0)


async def test_what_is_served_already_becomes_the_choice(store: Store) -> None:
    old = store.choose(["old"])
    async with serving(store) as appliance:
        pid = appliance.daemon.engine.worker_pid
        assert (await use(appliance, "old")).outcome == "unchanged"
        assert appliance.daemon.engine.worker_pid == pid
    assert read_slots(store.directory).current == slot(old)


async def test_rollback_goes_back_to_what_was_served(store: Store) -> None:
    install_fake(store, "new")
    async with serving(store) as appliance:
        await use(appliance, "new")
        await use(appliance, None)
        assert await served_id(appliance) == "old"
        await use(appliance, None)
        assert await served_id(appliance) == "new"


async def test_a_second_change_meanwhile_is_refused(store: Store) -> None:
    install_fake(store, "new", b"fake:load-ms=300")
    async with serving(store) as appliance:
        first = asyncio.create_task(use(appliance, "new"))
        await until(lambda: switching(appliance).stage == "loading")
        assert (await appliance.get("/v1/status"))[1]["switch"]["stage"] == "loading"
        with pytest.raises(StoreBusy, match="under way"):
            await use(appliance, "old")
        await first
        assert await served_id(appliance) == "new"


async def test_whoever_asked_may_leave(store: Store) -> None:
    install_fake(store, "new", b"fake:load-ms=200")
    async with serving(store) as appliance:
        asking = asyncio.create_task(use(appliance, "new"))
        await until(lambda: switching(appliance).stage == "loading")
        asking.cancel()
        await until(lambda: switching(appliance).last is not None)
        assert await served_id(appliance) == "new"


async def test_a_model_that_is_removed_meanwhile_does_not_take_over(store: Store) -> None:
    new = install_fake(store, "new", b"fake:load-ms=200")
    async with serving(store) as appliance:
        using = asyncio.create_task(use(appliance, "new"))
        await until(lambda: switching(appliance).stage == "loading")
        await until(lambda: appliance.daemon.engine.starting is not None)
        new.directory.rename(store.directory / ".staging-gone")
        with pytest.raises(ModelError, match=r"was removed|not what is expected"):
            await using
        assert await served_id(appliance) == "old"
    assert read_slots(store.directory).current is None


async def test_slots_that_can_not_be_written_are_known_before_a_worker_is_started(store: Store) -> None:
    install_fake(store, "new")
    (store.directory / ".slots.lock").mkdir()  # as a store on a read-only file system: no writer gets in
    async with serving(store) as appliance:
        with pytest.raises(ConfigError, match="can't be written"):
            await use(appliance, "new")
        assert appliance.daemon.engine.worker_pid is not None
        assert (appliance.daemon.engine.recycles, await served_id(appliance)) == (0, "old")


async def test_slots_that_can_not_be_written_at_the_end_leave_the_old_model_serving(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake(store, "new")

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    async with serving(store) as appliance:
        with monkeypatch.context() as patch:
            patch.setattr("appliance.models.slots.open_replacement", full)
            with pytest.raises(ConfigError, match="No space left on device; make room there"):
                await use(appliance, "new")
        last = switching(appliance).last
        assert last is not None
        assert last.stage == "switching"
        assert await served_id(appliance) == "old"
        await use(appliance, "new")


async def test_a_speed_of_another_pipeline_is_none_to_reach(store: Store) -> None:
    real = Measured(slot=Slot("real", "0" * 16), tokens_per_s=1e9, read_bytes=None, at=now(), pipeline="llm")
    change_slots(store.directory, lambda slots: msgspec.structs.replace(slots, measured=real))
    install_fake(store, "new")
    async with serving(store, models=HELD) as appliance:
        await use(appliance, "new")
        measured = read_slots(store.directory).measured
        assert measured is not None
        assert (measured.slot.id, measured.pipeline) == ("new", "fake")


async def test_a_canary_beside_other_answers_is_not_held_to_a_speed(store: Store) -> None:
    swift = Measured(slot=Slot("swift", "0" * 16), tokens_per_s=1e9, read_bytes=None, at=now(), pipeline="fake")
    change_slots(store.directory, lambda slots: msgspec.structs.replace(slots, measured=swift))
    install_fake(store, "new")
    async with serving(store, models=HELD) as appliance, appliance.connect() as peer:
        with pytest.raises(NotSwitched, match=r"lower models\.min_speed_ratio"):
            await use(appliance, "new")
        await peer.chat("r1", "again and again fake:step-ms=50")
        await peer.until("delta")
        await use(appliance, "new")
        assert await served_id(appliance) == "new"
        assert read_slots(store.directory).measured == swift
