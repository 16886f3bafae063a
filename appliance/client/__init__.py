"""The public Python client of the appliance's WebSocket. Knows the protocol and nothing of the server.

    from appliance.client import Message, connect

    async with connect("http://127.0.0.1:8080") as client:
        async with client.stream([Message("user", "你好")], max_tokens=256) as answer:
            async for delta in answer:
                print(delta, end="", flush=True)
        print(answer.done.finish_reason, answer.done.usage.completion_tokens)

Many streams can run at once on one client. Leaving a stream's block cancels its request. After a lost connection each
open answer raises ConnectionLost, and the next stream connects again; `stream(…, resumable=True)` goes on instead.
"""

from appliance.client.answer import Answer, Event, Interrupted
from appliance.client.client import Client, connect
from appliance.client.errors import (
    BadAddress,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ProtocolViolation,
    RequestFailed,
    SlowReader,
    TlsFailed,
    UnsupportedProtocol,
)
from appliance.types import Message

__all__ = [
    "Answer",
    "BadAddress",
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "Event",
    "Interrupted",
    "Message",
    "ProtocolViolation",
    "RequestFailed",
    "SlowReader",
    "TlsFailed",
    "UnsupportedProtocol",
    "connect",
]
