"""What the doctor says of models, versions, memory and tuning, of appliances made up for it."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from appliance.doctor.asking import Said
from appliance.doctor.checks.memory import check_memory
from appliance.doctor.checks.models import check_model, check_tuning, check_versions
from appliance.doctor.surroundings import SERVICE
from appliance.models.fake import install_fake
from appliance.models.manifest import OpenVinoVersions, encode_manifest, sealed
from appliance.models.slots import BadSlot, Slots, change_slots, fallen_back, slot_of
from appliance.models.store import Installed, Store
from appliance.models.tuning.record import host_key
from tests.support.doctor import ACCOUNT, Programs, said, status, surroundings, write
from tests.support.tuning import record, write_record

PREFERRED = {"models": {"preferred": ["fake"]}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state/models")


def written_by(model: Installed, version: str) -> None:
    """Have the manifest say that another release wrote it."""
    versions = OpenVinoVersions(version, f"{version}.0")
    manifest = sealed(msgspec.structs.replace(model.manifest, openvino=versions))
    model.directory.joinpath("manifest.json").write_bytes(encode_manifest(manifest))
    model.directory.rename(model.directory.with_name(manifest.directory_name))


def test_no_model_is_red_but_for_the_fake(tmp_path: Path) -> None:
    assert said(check_model(surroundings(tmp_path)), "red", "none that may be served")
    assert said(check_model(surroundings(tmp_path, settings={"engine": {"pipeline": "fake"}})), "green", "none")


def test_marks_of_models_that_failed(tmp_path: Path, store: Store) -> None:
    good, bad = install_fake(store, content=b"one"), install_fake(store, "bad")
    here = surroundings(tmp_path, settings=PREFERRED)
    assert said(check_model(here), "green", f"{slot_of(good.manifest)}")
    mark = BadSlot(slot_of(bad.manifest), "crashes", "2026-01-01T00:00:00+00:00")
    change_slots(store.directory, lambda slots: fallen_back(slots, (mark,), slot_of(good.manifest)))
    assert said(check_model(here), "yellow", f"marked bad: {mark.slot} (crashes)")
    only = BadSlot(slot_of(good.manifest), "crashes too", "2026-01-01T00:00:00+00:00")
    change_slots(store.directory, lambda _: Slots(bad=(mark, only)))
    assert said(check_model(here), "red", "crashes too")


def test_a_model_that_the_services_account_cannot_read_is_red(tmp_path: Path, store: Store) -> None:
    model = install_fake(store)
    change_slots(store.directory, lambda slots: slots)
    hidden = model.directory / "manifest.json"

    class Hides(Programs):
        def __call__(self, command: Sequence[str]) -> Said:
            self.answers["setpriv"] = f"{hidden}\n" if str(model.directory) in command else ""
            return super().__call__(command)

    here = surroundings(tmp_path, settings=PREFERRED, units=ACCOUNT, ask=Hides())
    assert said(check_model(here), "red", f"account appliance can't read {hidden}")
    above = surroundings(tmp_path, units=ACCOUNT, ask=Programs(setpriv=f"{store.directory}\n"))
    assert said(check_model(above), "red", f"can't read {store.directory}")  # whatever may be in it
    fine = surroundings(tmp_path, settings=PREFERRED, units=ACCOUNT, ask=Programs(setpriv=""))
    assert said(check_model(fine), "green", "fake@")


def test_slots_that_are_damaged_are_told(tmp_path: Path, store: Store) -> None:
    install_fake(store)
    (store.directory / "slots.json").write_text("{")
    assert said(check_model(surroundings(tmp_path, settings=PREFERRED)), "yellow", "slots.json is damaged")


def test_a_daemon_that_serves_another_model_than_the_next_start_would(tmp_path: Path, store: Store) -> None:
    first, second = install_fake(store), install_fake(store, "second")
    served = status(model={"id": "second", "digest": second.manifest.digest})
    finding = check_model(surroundings(tmp_path, settings=PREFERRED, status=served))
    assert said(finding, "yellow", f"{slot_of(second.manifest)} is served, {slot_of(first.manifest)} would be")


@pytest.mark.parametrize(
    ("version", "found", "text"),
    [("2020.1.0", "yellow", "2020.1.0"), ("2099.1.0", "red", "newer than"), (None, "green", "as the model's")],
)
def test_openvino_against_the_models(tmp_path: Path, store: Store, version: str | None, found: str, text: str) -> None:
    model = install_fake(store)
    if version is not None:
        written_by(model, version)
    assert said(check_versions(surroundings(tmp_path, settings=PREFERRED)), found, text)


def test_a_daemon_that_was_not_restarted_after_an_upgrade(tmp_path: Path) -> None:
    here = surroundings(tmp_path, status=status(engine={"versions": {"openvino": "2025.1.0"}}))
    assert said(check_versions(here), "yellow", "still runs openvino 2025.1.0")


def test_openvino_and_genai_that_do_not_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: {"openvino": "2026.4.1"}.get(name, "2026.3.0.0"))
    assert said(check_versions(surroundings(tmp_path)), "red", "do not belong together")


def test_memory_is_held_against_what_serving_the_model_takes(tmp_path: Path, store: Store) -> None:
    install_fake(store)
    write(tmp_path, {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB", "proc/vmstat": "oom_kill 0"})
    here = surroundings(tmp_path, settings=PREFERRED)
    assert said(check_memory(here), "green", "serving takes 321 MiB of 7,813 MiB (this machine)")
    limited = surroundings(tmp_path, settings=PREFERRED, units={SERVICE: {"MemoryMax": str(100 << 20)}})
    assert said(check_memory(limited), "red", "MemoryMax of the unit")
    write(tmp_path, {"proc/vmstat": "oom_kill 2"})
    assert said(check_memory(here), "yellow", "the kernel ended 2 processes")
    write(
        tmp_path, {"proc/vmstat": "oom_kill 0", "proc/pressure/memory": "some avg10=0.00 avg60=31.00 avg300=0 total=1"}
    )
    assert said(check_memory(here), "yellow", "31 % of the last minute")
    write(tmp_path, {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 100000 kB"})
    assert said(check_memory(here), "yellow", "are available")
    assert said(check_memory(surroundings(tmp_path, settings=PREFERRED, status=status())), "yellow", "31 %")  # has it


def test_what_was_tuned_fits_or_is_left_aside(tmp_path: Path) -> None:
    fake = {"engine": {"pipeline": "fake"}}
    here = surroundings(tmp_path, settings=fake)
    assert said(check_tuning(here), "green", "never tuned")
    write_record(here.state, record(threads=2))
    assert said(check_tuning(here), "green", "interactive, 2026-01-01: threads = 2")
    key = msgspec.structs.replace(host_key("fake", "0" * 64), cpu_model="Another")
    write_record(here.state, record(key, threads=2))
    assert said(check_tuning(here), "yellow", "another CPU (Another)")
    here.tuning_file.write_text("{")
    assert said(check_tuning(here), "yellow", "of no use")


def test_what_was_tuned_is_seen_with_the_daemons_own_cap(tmp_path: Path) -> None:
    served = status(model={"id": "fake", "digest": "0" * 64}, engine={"isa_cap": "AVX2_VNNI"})
    here = surroundings(tmp_path, settings={"engine": {"pipeline": "fake"}}, status=served)
    key = msgspec.structs.replace(host_key("fake", "0" * 64), isa_cap="AVX2_VNNI")
    write_record(here.state, record(key, threads=2))
    assert said(check_tuning(here), "green", "threads = 2")
