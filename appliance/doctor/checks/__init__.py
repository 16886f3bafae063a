"""All checks, in the order of the screen. Each takes the surroundings, reads, and returns one finding."""

from collections.abc import Callable

from appliance.doctor.checks.clock import check_clock
from appliance.doctor.checks.cpu import check_cpu, check_frequency
from appliance.doctor.checks.disk import check_disk
from appliance.doctor.checks.heat import check_heat
from appliance.doctor.checks.journal import check_journal
from appliance.doctor.checks.memory import check_memory, check_swap
from appliance.doctor.checks.models import check_model, check_tuning, check_versions
from appliance.doctor.checks.port import check_port
from appliance.doctor.checks.service import check_daemon, check_settings
from appliance.doctor.checks.speed import check_speed
from appliance.doctor.checks.tls import check_tls
from appliance.doctor.checks.units import check_units
from appliance.doctor.findings import Finding
from appliance.doctor.surroundings import Surroundings

Check = Callable[[Surroundings], Finding]

CHECKS: dict[str, Check] = {
    "settings": check_settings,
    "daemon": check_daemon,
    "port": check_port,
    "tls": check_tls,
    "units": check_units,
    "model": check_model,
    "versions": check_versions,
    "speed": check_speed,
    "tuning": check_tuning,
    "cpu": check_cpu,
    "frequency": check_frequency,
    "heat": check_heat,
    "memory": check_memory,
    "swap": check_swap,
    "disk": check_disk,
    "clock": check_clock,
    "journal": check_journal,
}
