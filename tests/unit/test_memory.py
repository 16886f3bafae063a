"""The memory budget and its limits, on trees made up for the test."""

from pathlib import Path

import msgspec
import pytest

from appliance.engine.ipc import Load
from appliance.engine.memory import (
    MIB,
    MemoryBudget,
    kv_bytes_per_token,
    memory_budget,
    require_room,
    require_rss_limit,
    room_beside,
)
from appliance.errors import ConfigError
from appliance.observability.memory import available_memory_bytes, memory_limit_bytes

GIB = 1 << 30
LOAD = Load(
    pipeline="continuous_batching", directory="", eos_token_ids=[], threads=0, precision="auto",
    kv_cache_tokens=32_768, max_num_batched_tokens=128, max_running_requests=8,
)  # fmt: skip


def tree(root: Path, **files: str) -> Path:
    """Files by path, with __ for /."""
    for name, text in {
        "proc__meminfo": f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {5 * GIB // 1024} kB\n",
        **files,
    }.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(tree(tmp_path)) == 8 * GIB
    assert memory_limit_bytes(tree(tmp_path, proc__self__cgroup="0::/\n")) == 8 * GIB


def test_the_least_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__self__cgroup="0::/system.slice/appliance.service\n")
    slice_ = root / "sys/fs/cgroup/system.slice"
    (slice_ / "appliance.service").mkdir(parents=True)
    (slice_ / "appliance.service/memory.max").write_text("max\n")
    assert memory_limit_bytes(root) == 8 * GIB
    (slice_ / "memory.max").write_text(f"{2 * GIB}\n")
    assert memory_limit_bytes(root) == 2 * GIB
    (slice_ / "appliance.service/memory.max").write_text(f"{GIB}\n")
    assert memory_limit_bytes(root) == GIB


def test_version_1_groups_count_too(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__self__cgroup="4:cpu,memory:/a\n1:name=systemd:/b\n0::/\n")
    group = root / "sys/fs/cgroup/memory/a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{3 * GIB}\n")
    (group.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_limit_bytes(root) == 3 * GIB


def ir(layers: int, heads: int, size: int) -> str:
    states = [f'past.{layer}.{kind}" variable_type="f32' for layer in range(layers) for kind in ("key", "value")]
    lines = [f'<data variable_id="{state}" variable_shape="?,{heads},?,{size}" />' for state in states]
    return "\n".join([*lines, *lines])  # read and assigned: each is there twice


def test_bytes_a_token_are_those_that_the_engine_reports() -> None:
    assert kv_bytes_per_token(ir(layers=30, heads=3, size=64)) == 13_680
    assert kv_bytes_per_token(ir(layers=24, heads=2, size=64)) == 7_296
    assert kv_bytes_per_token("<net/>") == 0


def test_the_budget_is_of_weights_cache_and_the_rest(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text(ir(layers=24, heads=2, size=64))
    (tmp_path / "openvino_model.bin").write_bytes(bytes(1000))
    budget = memory_budget(tmp_path, 32_768)
    assert (budget.weights_bytes, budget.kv_cache_bytes) == (1000, 239_075_328)
    assert budget.total_bytes == 1000 + 239_075_328 + budget.overhead_bytes


def test_a_setting_that_does_not_fit_is_refused_with_one_that_does() -> None:
    budget = MemoryBudget(600 * MIB, 7_296 * 262_144, 300 * MIB, 7_296)
    require_room(budget, 262_144, 8 * GIB)
    with pytest.raises(ConfigError, match=r"engine\.kv_cache_tokens = 262144") as caught:
        require_room(budget, 262_144, 2 * GIB)
    fits = int(str(caught.value).rsplit("; ", 1)[1].split()[0])
    assert 100_000 < fits < 262_144
    require_room(MemoryBudget(600 * MIB, 7_296 * fits, 300 * MIB, 7_296), fits, 2 * GIB)


def test_a_machine_too_small_for_any_setting_is_told_so() -> None:
    with pytest.raises(ConfigError, match="no value would fit"):
        require_room(MemoryBudget(600 * MIB, 7_296 * 4096, 300 * MIB, 7_296), 4096, 512 * MIB)


def test_what_is_available_is_the_machines_or_the_least_that_a_group_has_left(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__self__cgroup="0::/system.slice/appliance.service\n")
    assert available_memory_bytes(root) == 5 * GIB
    service = root / "sys/fs/cgroup/system.slice/appliance.service"
    service.mkdir(parents=True)
    for name, text in {"max": f"{2 * GIB}\n", "current": f"{GIB}\n", "stat": "anon 5\ninactive_file 1048576\n"}.items():
        (service / f"memory.{name}").write_text(text)
    assert available_memory_bytes(root) == GIB + MIB
    (service.parent / "memory.max").write_text(f"{3 * GIB}\n")
    (service.parent / "memory.current").write_text(f"{3 * GIB + 1}\n")
    assert available_memory_bytes(root) == 0


def test_what_a_version_1_group_has_left_counts_too(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__self__cgroup="4:cpu,memory:/a\n")
    group = root / "sys/fs/cgroup/memory/a"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{3 * GIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{GIB}\n")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 1048576\n")
    assert available_memory_bytes(root) == 2 * GIB + MIB


def test_a_size_that_a_healthy_worker_passes_is_refused_with_one_that_it_does_not() -> None:
    budget = MemoryBudget(600 * MIB, 7_296 * 4096, 300 * MIB, 7_296)
    require_rss_limit(budget, 0)
    require_rss_limit(budget, budget.total_bytes)
    with pytest.raises(ConfigError, match=rf"engine\.max_rss_bytes = 1000000: .* take {budget.total_bytes} or more"):
        require_rss_limit(budget, 1_000_000)


def test_there_is_room_for_another_worker_where_its_whole_budget_is_available(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "openvino_model.xml").write_text(ir(layers=24, heads=2, size=64))
    (model / "openvino_model.bin").write_bytes(bytes(1000))
    load = msgspec.structs.replace(LOAD, directory=str(model))
    needed = memory_budget(model, load.kv_cache_tokens).total_bytes
    for available, fits in ((needed * 2, True), (needed, False)):
        assert (
            room_beside(load, tree(tmp_path / "root", proc__meminfo=f"MemAvailable: {available // 1024} kB\n")) is fits
        )
    assert not room_beside(load, tmp_path / "nothing")


@pytest.mark.parametrize(("precision", "element_bytes"), [("f16", 2), ("bf16", 2), ("f32", 4)])
def test_a_kv_cache_that_is_not_quantized_takes_its_elements(precision: str, element_bytes: int) -> None:
    text = ir(layers=24, heads=2, size=64)
    assert kv_bytes_per_token(text, precision) == 24 * 2 * 2 * 64 * element_bytes
    assert kv_bytes_per_token(text, "u8") == kv_bytes_per_token(text)
