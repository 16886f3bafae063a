"""Results of measurements made for tests."""

from appliance.bench.host import Bandwidth, Host
from appliance.bench.results import Result, Run
from appliance.bench.roofline import Roofline, roofline
from appliance.bench.samples import Sample, summarize
from appliance.bench.server import ServedEngine, ServedModel, Server
from appliance.bench.workload import Kind, Workload

HOST = Host(
    cpu_model="Intel(R) N100",
    flags=["avx2", "avx_vnni"],
    cores_physical=4,
    cores_usable=4,
    governor="powersave",
    memory_bytes=8 << 30,
    memory_bandwidth=Bandwidth(gb_per_s=20.0, method="by hand"),
    kernel="6.1",
    python="3.11.2",
    packages={"aiohttp": "3"},
    isa_cap=None,
)
SERVER = Server(
    version="0.1.0",
    ready=True,
    model=ServedModel(id="tiny", digest="ab" * 32, weights_bytes=300_000_000, weights_read_bytes=200_000_000),
    engine=ServedEngine(pipeline="fake", settings={"kv_cache_tokens": 32768}),
)


def run(kind: Kind, concurrency: int, *, ttft_ms: float = 100.0, tokens: int = 11, failed: int = 0) -> Run:
    """A level of two requests a client, which end at 1.1 s with `tokens` tokens each; `failed` more find no room."""
    samples = [
        Sample(
            client=number % concurrency,
            turn=0,
            began_s=0.0,
            ttft_ms=ttft_ms,
            gaps_ms=[10.0, 20.0],
            total_ms=1100.0,
            tokens=tokens,
            prompt_tokens=249,
            outcome="length",
        )
        for number in range(2 * concurrency)
    ]
    samples += [
        Sample(
            client=0, turn=1, began_s=0.0, ttft_ms=None, gaps_ms=[], total_ms=1.0, tokens=0, prompt_tokens=None,
            outcome="queue_full",
        )
        for _ in range(failed)
    ]  # fmt: skip
    return Run(
        workload=Workload(kind=kind, prompt_tokens=249, output_tokens=48, seed=1),
        warm_up=1,
        requests=2,
        duration_s=None,
        level=summarize("appliance", kind, concurrency, samples),
        samples=samples,
    )


def result(*runs: Run, host: Host = HOST, server: Server = SERVER, same_host: bool = True) -> Result:
    """A result of `runs`, by default a single free stream."""
    taken = list(runs) or [run("free", 1)]
    levels = [one.level for one in taken]
    roof: Roofline = roofline(server, host, levels, same_host=same_host)
    return Result(
        created_at="2026-11-22T00:00:00+00:00", url="ws://127.0.0.1:8080/v1/ws", same_host=same_host, host=host,
        server=server, seed=1, runs=taken, roofline=roof,
    )  # fmt: skip
