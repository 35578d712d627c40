"""What the programs with plain NATS clients share: a client, and how a result is printed."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext


class Peer:
    """A connected client that remembers what the server refused it."""

    client: Client

    def __init__(self) -> None:
        self.refusals: list[str] = []

    @classmethod
    async def connect(cls, url: str, **options: Any) -> "Peer":
        peer = cls()
        peer.client = await nats.connect(
            url, allow_reconnect=False, error_cb=peer.on_error, **options
        )
        return peer

    async def on_error(self, error: Exception) -> None:
        self.refusals.append(str(error))

    @property
    def jetstream(self) -> JetStreamContext:
        return self.client.jetstream()


async def outcome(action: Awaitable[Any]) -> Any:
    """What comes of an action, be it an error."""
    try:
        return await action
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def run(main: Callable[..., Awaitable[Any]]) -> None:
    """Runs a program with the values of its one argument and prints its result."""
    print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))), flush=True)
