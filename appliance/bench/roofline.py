"""How near decoding comes to what memory allows: one division, and the reasons not to make it. Measures nothing."""

from collections.abc import Sequence

from msgspec import Struct

from appliance.bench.host import Host
from appliance.bench.samples import Level
from appliance.bench.server import Server


class Roofline(Struct, frozen=True, kw_only=True):
    """Share of the memory's bandwidth that one stream's weights take."""

    share: float | None = None
    """bytes of weights read a token × tokens a second ÷ bytes a second that memory gives; 1 is the roof."""
    why_not: str | None = None
    """Why there is no share."""
    weights_read_bytes: int | None = None
    tokens_per_s: float | None = None
    """Of a single free stream after its first token."""
    gb_per_s: float | None = None
    how: str = ""
    """How the three are known."""


def roofline(server: Server, host: Host, levels: Sequence[Level], *, same_host: bool) -> Roofline:
    """The share of a measurement, or why there is none."""
    weights = server.model.weights_read_bytes
    bandwidth = host.memory_bandwidth
    alone = next((level for level in levels if level.concurrency == 1 and level.kind == "free"), None)
    tpot_ms = alone.tpot_ms.p50 if alone is not None and alone.tpot_ms is not None else None
    if weights is None:
        return Roofline(why_not="the server does not tell how many bytes of weights a token reads")
    if not same_host:
        return Roofline(why_not="the server runs on another machine, whose bandwidth is not known here")
    if bandwidth is None:
        return Roofline(why_not="memory bandwidth was not measured")
    if not tpot_ms:
        return Roofline(why_not="no single free stream was measured (--concurrency 1 --kind free)")
    tokens_per_s = 1000 / tpot_ms
    return Roofline(
        share=weights * tokens_per_s / (bandwidth.gb_per_s * 1e9),
        weights_read_bytes=weights,
        tokens_per_s=tokens_per_s,
        gb_per_s=bandwidth.gb_per_s,
        how=(
            "weights: openvino_model.bin less an input embedding that the output layer does not share, from the "
            f"model's graph; tokens/s: median of a single stream after its first token; bandwidth: {bandwidth.method}"
        ),
    )
