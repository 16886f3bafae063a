"""Frames between front process and worker."""

import socket
import struct
import threading

import pytest

from appliance.engine.ipc import (
    FRAME_MAX_BYTES,
    Cancel,
    ChannelError,
    Command,
    Fatal,
    Frames,
    Prepare,
    Prepared,
    Stop,
    WorkerChannel,
    command_decoder,
    frame,
    report_decoder,
)
from appliance.types import Message


def test_messages_survive_any_cut_of_the_stream() -> None:
    sent: list[Command] = [Prepare(7, [Message("user", "你好 😀")]), Cancel(7), Stop()]
    data = b"".join(frame(message) for message in sent)
    for size in (1, 3, 7, len(data)):
        frames = Frames(command_decoder)
        got = [m for i in range(0, len(data), size) for m in frames.feed(data[i : i + size])]
        assert got == sent


def test_an_announced_length_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ChannelError, match="announced"):
        list(Frames(command_decoder).feed(struct.pack("<I", FRAME_MAX_BYTES + 1)))


def test_a_frame_that_is_no_message_is_refused() -> None:
    with pytest.raises(ChannelError, match="no message"):
        list(Frames(command_decoder).feed(struct.pack("<I", 3) + b"abc"))
    with pytest.raises(ChannelError, match="no message"):
        list(Frames(command_decoder).feed(frame(Prepared(1, 2))))


def test_a_frame_too_large_is_not_sent() -> None:
    with pytest.raises(ChannelError, match="at most"):
        frame(Prepare(1, [Message("user", "x" * FRAME_MAX_BYTES)]))


def test_the_worker_reads_what_there_is_and_sees_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = WorkerChannel(theirs)
        assert channel.receive(0) == []
        ours.sendall(frame(Cancel(1)) + frame(Cancel(2))[:3])
        assert channel.receive(None) == [Cancel(1)]
        ours.close()
        assert channel.receive(None) is None


def test_a_worker_that_lingers_drops_what_comes_until_the_other_side_closes() -> None:
    front, back = socket.socketpair()
    channel = WorkerChannel(back)
    channel.send(Fatal("last words"))
    front.sendall(b"too late")
    lingering = threading.Thread(target=channel.linger)
    lingering.start()
    front.sendall(b"later still")
    assert [*Frames(report_decoder).feed(front.recv(1000))] == [Fatal("last words")]
    front.close()
    lingering.join(10)
    assert not lingering.is_alive()
    back.close()
