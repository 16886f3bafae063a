"""What the CPU can do, and whether it is allowed to: instruction sets, governor, turbo. Measures nothing."""

import os
from pathlib import Path

from appliance.doctor.findings import Finding, green, red, unknown, yellow
from appliance.doctor.reading import cpu_directories, number, text
from appliance.doctor.surroundings import Surroundings
from appliance.observability.host import cpu_info

ISA_CAP = "ONEDNN_MAX_CPU_ISA"
SLOW_GOVERNORS = ("powersave", "conservative", "userspace")
SHORT_OF_ITS_MAXIMUM = 0.98  # of the frequency: a limit that costs more is worth a word


def check_cpu(here: Surroundings) -> Finding:
    """Instruction sets that INT4 weights and INT8 activations live from."""
    info = cpu_info(here.root)
    flags = set(info.get("flags", "").split())
    model = info.get("model name", "an unknown CPU")
    wanted = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8")
    facts = {"model": model, "flags": [flag for flag in wanted if flag in flags], "cpus": os.cpu_count()}
    if not flags:
        return unknown("cpu", f"{model}: its instruction sets are not told", "look at /proc/cpuinfo", **facts)
    if "avx2" not in flags:
        return red("cpu", f"{model} has no AVX2: answers come far too slowly", "take a CPU with AVX2, of a virtual "
                   "machine: pass the host's CPU through", **facts)  # fmt: skip
    cap = here.of_status("engine", "isa_cap") or os.environ.get(ISA_CAP)
    if cap and {"amx_int8", "avx512_vnni"} & flags and not str(cap).upper().startswith("AVX512"):
        return yellow("cpu", f"{model}: {ISA_CAP}={cap} keeps it from using all that it has",
                      f"leave {ISA_CAP} out of the daemon's environment", **facts)  # fmt: skip
    if "amx_int8" in flags or "avx512_vnni" in flags:
        best = "AMX" if "amx_int8" in flags else "AVX-512 VNNI"
        return green("cpu", f"{model}: {best}, more than the appliance is made for", **facts)
    if "avx_vnni" in flags:
        return green("cpu", f"{model}: AVX2 and AVX-VNNI, what the appliance is made for", **facts)
    return yellow("cpu", f"{model} has AVX2 without AVX-VNNI: prompts are computed more slowly, the first token comes "
                  "later; decoding, which waits for memory, suffers less",
                  "nothing mends this; expect less of it, and compare with: appliance bench", **facts)  # fmt: skip


def check_frequency(here: Surroundings) -> Finding:
    """Whether the CPU may run as fast as it can."""
    cpus = here.root / "sys/devices/system/cpu"
    governors = sorted({g for cpu in cpu_directories(here.root) if (g := text(cpu / "cpufreq/scaling_governor"))})
    driver = text(cpus / "cpu0/cpufreq/scaling_driver")
    facts = {"governors": governors, "driver": driver, "turbo": _turbo(cpus)}
    if not governors:
        virtual = "hypervisor" in cpu_info(here.root).get("flags", "").split()
        why = "a virtual machine's host decides" if virtual else "the kernel tells nothing of cpufreq"
        return unknown("frequency", f"governor and turbo are not known: {why}",
                       "look on the machine itself, or load its cpufreq driver", **facts)  # fmt: skip
    wrong = _wrong_governor(cpus, governors, driver)
    if wrong is not None:
        return yellow("frequency", wrong, "set it, for good with a unit: cpupower frequency-set -g performance",
                      **facts)  # fmt: skip
    if facts["turbo"] is False:
        return yellow("frequency", "turbo is off: single answers come more slowly",
                      "turn it on in the firmware, or: echo 0 >/sys/devices/system/cpu/intel_pstate/no_turbo "
                      "(with other drivers: echo 1 >/sys/devices/system/cpu/cpufreq/boost)", **facts)  # fmt: skip
    limited = _limited(here.root)
    if limited is not None:
        return yellow(
            "frequency", limited, "raise scaling_max_freq, or look for a power limit in the firmware", **facts
        )
    if facts["turbo"] is None:
        return unknown("frequency", f"governor {', '.join(governors)}; whether turbo is on is not told",
                       "look in the firmware", **facts)  # fmt: skip
    return green("frequency", f"governor {', '.join(governors)} ({driver or 'driver unknown'}), turbo on", **facts)


def _wrong_governor(cpus: Path, governors: list[str], driver: str | None) -> str | None:
    """In words; intel_pstate's and amd-pstate's own powersave follows the load, and their preference counts."""
    if driver in ("intel_pstate", "amd-pstate-epp"):
        preference = text(cpus / "cpu0/cpufreq/energy_performance_preference")
        if "powersave" in governors and preference in ("power", "balance_power"):
            return f"governor powersave with energy preference {preference}: clocks rise late"
        return None
    slow = [governor for governor in governors if governor in SLOW_GOVERNORS]
    return f"governor {', '.join(slow)} ({driver or 'driver unknown'}) keeps clocks low" if slow else None


def _turbo(cpus: Path) -> bool | None:
    """Whether it is on; None where the driver does not tell."""
    off = number(cpus / "intel_pstate/no_turbo")
    if off is not None:
        return off == 0
    boost = number(cpus / "cpufreq/boost")
    return None if boost is None else boost == 1


def _limited(root: Path) -> str | None:
    for cpu in cpu_directories(root):
        allowed, possible = (number(cpu / "cpufreq" / f"{name}_max_freq") for name in ("scaling", "cpuinfo"))
        if allowed and possible and allowed < possible * SHORT_OF_ITS_MAXIMUM:
            return f"{cpu.name} may run at {allowed / 1e6:.1f} GHz of the {possible / 1e6:.1f} GHz that it can"
    return None
