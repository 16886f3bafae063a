"""What is told of the machine, from small made-up ones and from this one."""

from pathlib import Path

import pytest

from appliance.bench.host import MIB, describe_host, measure_bandwidth

CPUINFO = """processor\t: 0
model name\t: Intel(R) N100
flags\t\t: fpu sse2 avx2 fma f16c avx_vnni serialize

processor\t: 1
model name\t: another
flags\t\t: avx512f
"""


def test_the_cpu_is_the_first_of_cpuinfo_with_the_flags_that_matter(tmp_path: Path) -> None:
    governor = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("powersave\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    host = describe_host(root=tmp_path, bandwidth=False)
    assert host.cpu_model == "Intel(R) N100"
    assert host.flags == ["avx2", "avx_vnni", "f16c", "fma"]
    assert host.governor == "powersave"
    assert host.memory_bandwidth is None


def test_a_machine_that_tells_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    host = describe_host(root=tmp_path, bandwidth=False)
    assert (host.cpu_model, host.flags, host.governor) == (None, [], None)
    assert host.cores_usable >= 1
    assert host.packages["aiohttp"] is not None


def test_the_isa_cap_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI")
    assert describe_host(bandwidth=False).isa_cap == "AVX2_VNNI"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert describe_host(bandwidth=False).isa_cap is None


def test_bandwidth_says_how_it_was_measured() -> None:
    measured = measure_bandwidth(8 * MIB, threads=2)
    assert measured.gb_per_s > 0
    assert measured.method == "best of 5 passes of numpy.max over 8 MiB of float32, 2 threads"
