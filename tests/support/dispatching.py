"""A dispatcher over an engine that does what the test says, and what requests hear. Knows no worker and no socket."""

from collections.abc import Sequence

from appliance.config import DispatchSettings
from appliance.dispatch import Capacity, Dispatcher, Ticket
from appliance.engine.base import EngineLimits, EngineState
from appliance.engine.ipc import Finish, Step
from appliance.errors import RequestError
from appliance.observability.metrics import Metrics
from appliance.types import ChatRequest, EngineStats, FinishReason, Message, Sampling, Timings, Usage

STATS = EngineStats(0.01, 1, 0.1, 1000, 1000)


class ScriptedEngine:
    """Remembers what it is told."""

    state: EngineState = "ready"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.max_tokens: dict[int, int] = {}

    def prepare(self, request_id: int, messages: Sequence[Message]) -> None:
        self.calls.append(("prepare", request_id))

    def start(self, request_id: int, sampling: Sampling) -> None:
        self.calls.append(("start", request_id))
        self.max_tokens[request_id] = sampling.max_tokens

    def cancel(self, request_id: int) -> None:
        self.calls.append(("cancel", request_id))

    def started(self) -> list[int]:
        return [number for call, number in self.calls if call == "start"]


class Sink:
    """Remembers every event of one request."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.text = ""
        self.is_started = False
        self.ends: list[FinishReason | RequestError] = []
        self.usage: Usage | None = None

    def queued(self, position: int, eta_s: float | None) -> None:
        self.positions.append(position)

    def started(self, prompt_tokens: int) -> None:
        self.is_started = True

    def delta(self, offset: int, text: str) -> None:
        assert offset == len(self.text)
        self.text += text

    def done(self, reason: FinishReason, usage: Usage, timings: Timings) -> None:
        self.ends.append(reason)
        self.usage = usage

    def failed(self, error: RequestError) -> None:
        self.ends.append(error)

    @property
    def code(self) -> str:
        (end,) = self.ends
        assert isinstance(end, RequestError), end
        return end.code


class Desk:
    """A dispatcher over a scripted engine: 10 blocks of 32 tokens, 4 requests at once."""

    def __init__(self, *, ready: bool = True, **settings: float) -> None:
        self.engine = ScriptedEngine()
        capacity = Capacity(context_tokens=256, kv_cache_tokens=320)
        self.dispatcher = Dispatcher(self.engine, DispatchSettings(**settings), capacity, Metrics())  # type: ignore[arg-type] # whole numbers
        if ready:
            self.ready()

    def ready(self) -> None:
        """A worker is there to start requests on."""
        self.dispatcher.engine_ready(EngineLimits(max_running_requests=4, kv_blocks=10, block_tokens=32))

    def lose(self, *held: Ticket) -> None:
        """The worker is gone, and with it the requests that it held."""
        self.dispatcher.engine_away()
        self.dispatcher.requests_lost([ticket.number for ticket in held], 4)

    def submit(self, client: str = "a", max_tokens: int = 32, deadline_s: float = 60) -> tuple[Ticket, Sink]:
        """A request whose prompt is with the engine, where it is next."""
        sink = Sink()
        sampling = Sampling(max_tokens=max_tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)
        request = ChatRequest(client=client, messages=[Message("user", "hi")], sampling=sampling, deadline_s=deadline_s)
        return self.dispatcher.submit(request, sink), sink

    def running(self, prompt_tokens: int = 32, client: str = "a", max_tokens: int = 32) -> tuple[Ticket, Sink]:
        """A request whose prompt has that length; it runs where there is room."""
        ticket, sink = self.submit(client, max_tokens)
        self.dispatcher.prompt_prepared(ticket.number, prompt_tokens)
        return ticket, sink

    def finish(self, ticket: Ticket, reason: FinishReason = "stop", error: str | None = None) -> None:
        """The engine ends a request."""
        self.dispatcher.step_done(Step([], [Finish(ticket.number, reason, 1, error)], STATS))
