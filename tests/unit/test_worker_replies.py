"""When the worker takes its next step: not before those whom it just told something could answer."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from appliance.engine import worker as worker_module
from appliance.engine.ipc import (
    Command,
    Frames,
    Prepare,
    Prepared,
    Ready,
    Report,
    Start,
    Step,
    Stop,
    WorkerChannel,
    frame,
    report_decoder,
)
from appliance.engine.worker import REPLIES_MAX, Worker
from appliance.types import Message
from tests.contract.conftest import FAKE
from tests.support.engine import greedy

LONG = "fake:step-ms=10 an answer that goes on"


class Front:
    """The other end of a worker's channel."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = Frames(report_decoder)
        self._reports: list[Report] = []

    def send(self, *commands: Command) -> None:
        self._socket.sendall(b"".join(frame(command) for command in commands))

    def next(self) -> Report:
        while not self._reports:
            self._reports += self._frames.feed(self._socket.recv(65536))
        return self._reports.pop(0)

    def until(self, kind: type[Report]) -> list[Report]:
        """Reports up to the first of that kind."""
        seen = [self.next()]
        while not isinstance(seen[-1], kind):
            seen.append(self.next())
        return seen

    def begin(self, request_id: int, text: str, max_tokens: int) -> None:
        self.send(Prepare(request_id, [Message("user", text)]), Start(request_id, greedy(max_tokens)))


@pytest.fixture
def front() -> Iterator[Front]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    thread = threading.Thread(target=Worker(WorkerChannel(theirs)).run)
    thread.start()
    with ours, theirs:
        front = Front(ours)
        front.send(FAKE)
        front.until(Ready)
        yield front
        front.send(Stop())
        thread.join(30)
        assert not thread.is_alive()


def test_a_prompt_that_was_just_prepared_is_in_the_next_step(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "REPLY_WAIT_S", 10)
    front.begin(1, LONG, 500)
    front.until(Step)
    front.send(Prepare(2, [Message("user", "hello")]))
    front.until(Prepared)
    time.sleep(0.1)  # ten steps, if it did not wait
    front.send(Start(2, greedy(3)))
    (step,) = front.until(Step)
    assert isinstance(step, Step)
    assert [delta.id for delta in step.deltas] == [1, 2]


def test_who_asks_again_at_once_is_in_the_next_step(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "REPLY_WAIT_S", 10)
    front.begin(1, LONG, 500)
    front.begin(2, "hello", 3)
    while True:
        (*_, step) = front.until(Step)
        assert isinstance(step, Step)
        if step.finished:
            break
    front.begin(3, "hello again", 3)
    while not isinstance(step := front.next(), Step):
        pass
    assert [delta.id for delta in step.deltas] == [1, 3]


def test_a_flood_of_prompts_holds_up_no_answer(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "REPLY_WAIT_S", 10)
    front.begin(1, LONG, 500)
    front.until(Step)
    front.send(Prepare(2, [Message("user", "hello")]))
    prepared, steps = 0, 0
    while steps < 3:
        report = front.next()
        steps += isinstance(report, Step)
        if isinstance(report, Prepared):
            prepared += 1
            assert prepared <= 4 * (REPLIES_MAX + 1)
            front.send(Prepare(2 + prepared, [Message("user", "hello")]))
