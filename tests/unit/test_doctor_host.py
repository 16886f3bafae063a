"""What the doctor says of CPU, clocks, heat, memory, swap, disk and clock, on hosts made up for it."""

import os
from pathlib import Path

import pytest

from appliance.doctor.checks.clock import check_clock, kernel_synchronised
from appliance.doctor.checks.cpu import check_cpu, check_frequency
from appliance.doctor.checks.disk import check_disk
from appliance.doctor.checks.heat import check_heat
from appliance.doctor.checks.memory import check_memory, check_swap
from tests.support.doctor import N100_FLAGS, status, surroundings, write

CPU = "sys/devices/system/cpu"
IN_2026 = 1_790_000_000.0


def cpuinfo(root: Path, flags: str) -> Path:
    return write(root, {"proc/cpuinfo": f"processor\t: 0\nmodel name\t: Made-up CPU\nflags\t\t: {flags}\n"})


@pytest.mark.parametrize(
    ("flags", "found", "said"),
    [
        (N100_FLAGS, "green", "AVX2 and AVX-VNNI"),
        ("sse4_2 avx2", "yellow", "without AVX-VNNI"),
        ("sse4_2 avx", "red", "no AVX2"),
        ("avx2 avx_vnni avx512_vnni amx_int8", "green", "AMX"),
        ("", "unknown", "not told"),
    ],
)
def test_instruction_sets_mean_speed(tmp_path: Path, flags: str, found: str, said: str) -> None:
    finding = check_cpu(surroundings(cpuinfo(tmp_path, flags)))
    assert finding.status == found
    assert said in finding.finding


def test_a_cap_on_instruction_sets_that_costs_is_told(tmp_path: Path) -> None:
    root = cpuinfo(tmp_path, "avx2 avx_vnni avx512_vnni amx_int8")
    capped = surroundings(root, status=status(engine={"isa_cap": "AVX2_VNNI"}))
    assert check_cpu(capped).status == "yellow"
    assert (
        check_cpu(surroundings(cpuinfo(tmp_path, N100_FLAGS), status=status(engine={"isa_cap": "AVX2_VNNI"}))).status
        == "green"
    )


def frequency(root: Path, **files: object) -> Path:
    names = {
        "governor": "cpu0/cpufreq/scaling_governor", "driver": "cpu0/cpufreq/scaling_driver",
        "preference": "cpu0/cpufreq/energy_performance_preference", "no_turbo": "intel_pstate/no_turbo",
        "boost": "cpufreq/boost", "allowed": "cpu0/cpufreq/scaling_max_freq",
        "possible": "cpu0/cpufreq/cpuinfo_max_freq",
    }  # fmt: skip
    return write(root, {f"{CPU}/{names[name]}": value for name, value in files.items()})


@pytest.mark.parametrize(
    ("files", "found", "said"),
    [
        ({"governor": "powersave", "driver": "intel_pstate", "preference": "balance_performance", "no_turbo": 0},
         "green", "turbo on"),
        ({"governor": "powersave", "driver": "intel_pstate", "preference": "power", "no_turbo": 0},
         "yellow", "energy preference power"),
        ({"governor": "powersave", "driver": "intel_cpufreq", "no_turbo": 0}, "yellow", "keeps clocks low"),
        ({"governor": "schedutil", "driver": "acpi-cpufreq", "boost": 1}, "green", "schedutil"),
        ({"governor": "performance", "driver": "intel_pstate", "no_turbo": 1}, "yellow", "turbo is off"),
        ({"governor": "performance", "driver": "acpi-cpufreq", "boost": 0}, "yellow", "turbo is off"),
        ({"governor": "performance", "no_turbo": 0, "allowed": 1_000_000, "possible": 3_400_000},
         "yellow", "cpu0 may run at 1.0 GHz of the 3.4 GHz"),
        ({"governor": "performance"}, "unknown", "whether turbo is on"),
        ({}, "unknown", "cpufreq"),
    ],
)  # fmt: skip
def test_governor_turbo_and_limits(tmp_path: Path, files: dict[str, object], found: str, said: str) -> None:
    finding = check_frequency(surroundings(frequency(tmp_path, **files)))
    assert (finding.status, said in finding.finding) == (found, True), finding


def test_a_virtual_machine_does_not_know_its_clocks(tmp_path: Path) -> None:
    finding = check_frequency(surroundings(cpuinfo(tmp_path, "avx2 hypervisor")))
    assert (finding.status, "virtual machine" in finding.finding) == ("unknown", True)


def heat(root: Path, *, throttled: int | None = 0, celsius: float = 52.0) -> Path:
    zone = "sys/class/thermal/thermal_zone0"
    write(root, {
        f"{zone}/type": "x86_pkg_temp", f"{zone}/temp": int(celsius * 1000),
        f"{zone}/trip_point_0_type": "passive", f"{zone}/trip_point_0_temp": 0,
        f"{zone}/trip_point_1_type": "passive", f"{zone}/trip_point_1_temp": 85_000,
        f"{zone}/trip_point_2_type": "critical", f"{zone}/trip_point_2_temp": 105_000,
    })  # fmt: skip
    if throttled is not None:
        for cpu in ("cpu0", "cpu1"):
            write(root, {f"{CPU}/{cpu}/thermal_throttle/package_throttle_count": throttled,
                         f"{CPU}/{cpu}/thermal_throttle/core_throttle_count": 0,
                         f"{CPU}/{cpu}/thermal_throttle/package_throttle_total_time_ms": throttled * 1000})  # fmt: skip
    return root


@pytest.mark.parametrize(
    ("throttled", "celsius", "found", "said"),
    [
        (0, 52, "green", "52 °C (x86_pkg_temp), not throttled since boot"),
        (7, 52, "yellow", "throttled for heat 7 times since boot, 7 s in all"),
        (0, 86, "yellow", "slowed down from 85 °C on"),
        (0, 96, "red", "switched off at 105 °C"),
        (None, 52, "unknown", "the host does not tell"),
    ],
)
def test_heat_since_boot(tmp_path: Path, throttled: int | None, celsius: float, found: str, said: str) -> None:
    finding = check_heat(surroundings(heat(tmp_path, throttled=throttled, celsius=celsius)), sample_s=0)
    assert (finding.status, said in finding.finding) == (found, True), finding


def test_throttling_in_this_very_second_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heat(tmp_path, throttled=7)
    monkeypatch.setattr("time.sleep", lambda _: heat(tmp_path, throttled=9))  # what happens in that second
    finding = check_heat(surroundings(tmp_path))
    assert (finding.status, finding.facts["throttled_in_1_s"]) == ("red", 2)


def test_a_host_without_sensors_is_no_cool_one(tmp_path: Path) -> None:
    assert check_heat(surroundings(tmp_path), sample_s=0).status == "unknown"


MEMINFO = "MemTotal:        8000000 kB\nMemAvailable:    6000000 kB\nSwapTotal: {total} kB\nSwapFree: {free} kB"


def memory(root: Path, *, total: int = 2_000_000, free: int = 2_000_000, **vmstat: int) -> Path:
    lines = "\n".join(f"{name} {value}" for name, value in ({"oom_kill": 0, "pswpin": 0} | vmstat).items())
    return write(root, {"proc/meminfo": MEMINFO.format(total=total, free=free), "proc/vmstat": lines})


@pytest.mark.parametrize(
    ("total", "free", "own_kb", "found", "said"),
    [
        (0, 0, 0, "green", "none"),
        (2_000_000, 2_000_000, 0, "green", "none used"),
        (2_000_000, 1_000_000, 0, "green", "none by the appliance"),
        (2_000_000, 1_000_000, 300_000, "yellow", "293 MiB of the appliance are in swap"),
    ],
)
def test_swap(tmp_path: Path, total: int, free: int, own_kb: int, found: str, said: str) -> None:
    memory(tmp_path, total=total, free=free)
    write(tmp_path, {"proc/4711/status": f"Name:\tappliance\nVmSwap:\t{own_kb} kB"})
    finding = check_swap(surroundings(tmp_path, status=status()), sample_s=0)
    assert (finding.status, said in finding.finding) == (found, True), finding


def test_memory_that_is_read_back_from_swap_now_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(tmp_path, free=1_000_000)
    monkeypatch.setattr("time.sleep", lambda _: memory(tmp_path, free=1_000_000, pswpin=5000))
    assert check_swap(surroundings(tmp_path, status=status())).status == "red"


def test_used_swap_without_a_daemon_to_ask_is_worth_a_look(tmp_path: Path) -> None:
    assert check_swap(surroundings(memory(tmp_path, free=1_000_000)), sample_s=0).status == "yellow"
    assert check_swap(surroundings(tmp_path / "none"), sample_s=0).status == "unknown"


def test_memory_without_a_model_is_not_known(tmp_path: Path) -> None:
    assert check_memory(surroundings(memory(tmp_path))).status == "unknown"
    fake = surroundings(tmp_path, settings={"engine": {"pipeline": "fake"}})
    assert check_memory(fake).status == "green"


def place(*, free: int = 5 << 30, inodes: int = 90, flags: int = 0) -> os.statvfs_result:
    blocks = 10 << 30
    return os.statvfs_result((1, 1, blocks, free, free, 100, inodes, inodes, flags, 255))


@pytest.mark.parametrize(
    ("made_up", "found", "said"),
    [
        (place(), "green", "5,369 MB free"),
        (place(free=500 << 20), "yellow", "no room for another model"),
        (place(free=1 << 20), "red", "as good as full"),
        (place(inodes=1), "yellow", "inodes"),
        (place(flags=os.ST_RDONLY), "red", "read-only"),
    ],
)
def test_disk_space(tmp_path: Path, made_up: os.statvfs_result, found: str, said: str) -> None:
    finding = check_disk(surroundings(tmp_path), statvfs=lambda _: made_up)
    assert (finding.status, said in finding.finding) == (found, True), finding
    assert finding.facts["state_directory"] == str(tmp_path / "state")


def test_a_quota_that_is_nearly_used_up_is_told(tmp_path: Path) -> None:
    write(tmp_path / "state/models/tiny/0123456789abcdef", {"openvino_model.bin": "x" * 950})
    here = surroundings(tmp_path, settings={"models": {"max_store_bytes": 1000}})
    finding = check_disk(here, statvfs=lambda _: place())
    assert (finding.status, finding.facts["store_held_bytes"]) == ("yellow", 951)


@pytest.mark.parametrize(
    ("now_s", "kept", "found"),
    [(IN_2026, True, "green"), (IN_2026, False, "yellow"), (IN_2026, None, "unknown"), (1000.0, True, "red")],
)
def test_clock(tmp_path: Path, now_s: float, kept: bool | None, found: str) -> None:
    assert check_clock(surroundings(tmp_path), now_s=lambda: now_s, synchronised=lambda: kept).status == found


def test_timesyncd_says_by_a_file_that_the_clock_is_kept(tmp_path: Path) -> None:
    here = surroundings(write(tmp_path, {"run/systemd/timesync/synchronized": ""}))
    assert check_clock(here, now_s=lambda: IN_2026, synchronised=lambda: False).status == "green"


def test_the_kernel_can_be_asked() -> None:
    assert kernel_synchronised() in (True, False, None)
