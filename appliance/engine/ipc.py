"""The channel between front process and engine worker: messages and frames. Knows no pipeline and no queue.

A SOCK_STREAM socketpair carries frames of a little-endian u32 length and that many bytes of msgpack.
Commands go to the worker, reports come back; end of file ends either side.
"""

import contextlib
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from appliance.types import EngineStats, FinishReason, Message, Sampling

FRAME_MAX_BYTES = 8 << 20  # twice the largest message that a client may send, so only a defect gets there
RECEIVE_BYTES = 1 << 18
RECEIVE_MAX_BYTES = 1 << 24  # in one go; what is beyond waits for the next step
LINGER_S = 2.0
_HEADER = struct.Struct("<I")
_DROPPED = bytearray(4096)


class ChannelError(Exception):
    """The other side sent what is no frame; the channel can't be used any more."""


# ---- front to worker -------------------------------------------------------------------------------------


class Load(Struct, frozen=True, kw_only=True, tag="load"):
    """First frame: build this pipeline, warm it up, report ready."""

    pipeline: str
    directory: str
    eos_token_ids: list[int]
    threads: int
    """0: one for each physical core that the process may use."""
    precision: str
    kv_cache_tokens: int
    max_num_batched_tokens: int
    max_running_requests: int
    prompt_lookup: bool = False
    """Draft tokens from the prompt; `llm` has no such thing."""
    dynamic_quantization: str = "auto"
    """See options.dynamic_group_size: auto, off, or a group size."""
    kv_cache_precision: str = "auto"
    """auto, u8, f16, bf16 or f32."""
    cpu_pinning: str = "auto"
    """auto, on or off."""
    watch_drafts: bool = False
    """Tell in each step what drafts gain, or would gain."""


class Prepare(Struct, frozen=True, tag="prepare"):
    """Render the chat template and tokenize; answered by Prepared or Rejected."""

    id: int
    messages: list[Message]


class Start(Struct, frozen=True, tag="start"):
    """Generate for a prepared id; its end is reported in a Step, whatever happens."""

    id: int
    sampling: Sampling


class Cancel(Struct, frozen=True, tag="cancel"):
    """Stop a started id, or forget a prepared one (which is not answered)."""

    id: int


class Canary(Struct, frozen=True, tag="canary"):
    """Answer a prompt of the worker's own with one token, before any later command; sent while nothing runs."""


class Stop(Struct, frozen=True, tag="stop"):
    """End the worker; live requests are dropped."""


Command = Load | Prepare | Start | Cancel | Canary | Stop


# ---- worker to front -------------------------------------------------------------------------------------


class Loading(Struct, frozen=True, tag="loading"):
    """Load goes on; `stage` is "loading" or "warming"."""

    stage: str


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The pipeline has answered once; requests may come."""

    versions: dict[str, str]
    max_running_requests: int
    kv_blocks: int
    block_tokens: int
    load_s: float
    warm_up_s: float
    rss_bytes: int
    shows_prefill: bool
    """Whether KV cache use in a Step grows while a prompt is computed."""


class Prepared(Struct, frozen=True, tag="prepared"):
    """The prompt's length in tokens, template included."""

    id: int
    prompt_tokens: int


class Rejected(Struct, frozen=True, tag="rejected"):
    """A request that the engine can't take: its template or sampling failed. Nothing was generated."""

    id: int
    message: str


class TextDelta(Struct, frozen=True, array_like=True):
    """What one step brought one request: whole characters (perhaps none yet) and the count of tokens."""

    id: int
    text: str
    tokens: int


class Finish(Struct, frozen=True, array_like=True):
    """The end of one request; its KV blocks are free. `error` is None where `reason` says it all."""

    id: int
    reason: FinishReason
    completion_tokens: int
    error: str | None = None


class Step(Struct, frozen=True, tag="step"):
    """One frame for each engine step, with the deltas of all running requests."""

    deltas: list[TextDelta]
    finished: list[Finish]
    stats: EngineStats


class CanaryAnswer(Struct, frozen=True, tag="canary_answer"):
    """Answers Canary: how many tokens came, which is 1 where all is well."""

    tokens: int
    rss_bytes: int


class Fatal(Struct, frozen=True, tag="fatal"):
    """The worker ends after this; `message` is for the journal and the operator."""

    message: str


Report = Loading | Ready | Prepared | Rejected | Step | CanaryAnswer | Fatal

_encoder = msgspec.msgpack.Encoder()
command_decoder: "msgspec.msgpack.Decoder[Command]" = msgspec.msgpack.Decoder(Command)
report_decoder: "msgspec.msgpack.Decoder[Report]" = msgspec.msgpack.Decoder(Report)


def frame(message: Command | Report) -> bytes:
    """One frame, header and body. Raises ChannelError where it would pass FRAME_MAX_BYTES."""
    body = _encoder.encode(message)
    if len(body) > FRAME_MAX_BYTES:
        raise ChannelError(f"a frame of {len(body)} bytes; at most {FRAME_MAX_BYTES} fit")
    return _HEADER.pack(len(body)) + body


class Frames:
    """Cuts a byte stream into messages."""

    def __init__(self, decoder: "msgspec.msgpack.Decoder[Any]") -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that `data` completes. Raises ChannelError for what is no frame."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._buffer)
            if size > FRAME_MAX_BYTES:
                raise ChannelError(f"a frame of {size} bytes announced; at most {FRAME_MAX_BYTES} fit")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            try:
                message = self._decoder.decode(body)
            except msgspec.DecodeError as error:
                raise ChannelError(f"a frame that is no message: {error}") from None
            yield message


class WorkerChannel:
    """The worker's side: blocking writes, reads that wait only when told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = Frames(command_decoder)
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    def send(self, report: Report) -> None:
        """Write one report. Raises OSError when the front process is gone."""
        self._socket.sendall(frame(report))

    def receive(self, wait_s: float | None) -> list[Command] | None:
        """The commands that have arrived, perhaps none; None at end of file.

        `wait_s`: seconds to wait for the first bytes; None: until there are some.
        """
        commands: list[Command] = []
        if wait_s != 0:
            self._readable.poll(None if wait_s is None else wait_s * 1000)
        # All that is there, so that a cancel does not wait behind a prompt for the next step.
        for _ in range(RECEIVE_MAX_BYTES // RECEIVE_BYTES):
            try:
                data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                return None
            commands += self._frames.feed(data)
        return commands

    def linger(self) -> None:
        """Drop what still comes until the front process closes, at most LINGER_S: a command that meets a closed end
        would cost the last report, which that process has not read yet.
        """
        self._socket.settimeout(LINGER_S)
        with contextlib.suppress(OSError):
            while self._socket.recv_into(_DROPPED):  # into what is there: memory may be what ran out
                pass
