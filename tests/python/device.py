"""A Device Connect device, unmodified, that a test steers by calling its functions.

    device.py '{"credentials_file": "cam-1.json"}'

What is given is what the device's runtime is made of, besides its driver. With `-` it is read from standard input: what is
secret belongs on no command line. With `meets` besides, the id of another device, it finds that one, calls it and tells all
others, as soon as it is registered itself.

It runs until it gets SIGTERM, or gives up; then it prints what it has seen as one line of JSON.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

# Read when the package is imported: registration need not be spread over time here.
os.environ["DEVICE_CONNECT_REGISTER_JITTER"] = "0"

from device_connect_edge import DeviceRuntime
from device_connect_edge.drivers import DeviceDriver, emit, get_rpc_source_device, on, rpc
from device_connect_edge.types import DeviceIdentity, DeviceStatus

# A heartbeat is sent every third of it.
TTL_SECONDS = 3

# How long to wait for an answer that nobody should give.
NO_ANSWER_SECONDS = 2

# How long to wait for a device that is to be met.
MEETING_SECONDS = 30


@dataclass
class Seen:
    """What happened to the device, in order."""

    calls: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    online: list[str] = field(default_factory=list)
    overheard: list[str] = field(default_factory=list)
    connected: list[bool] = field(default_factory=list)
    registrations: int = 0
    met: Any = None
    errors: list[str] = field(default_factory=list)
    ended: str | None = None


class Camera(DeviceDriver):
    device_type = "camera"

    def __init__(self) -> None:
        super().__init__()
        self.record = Seen()

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(device_type="camera", manufacturer="test", model="t1")

    @property
    def status(self) -> DeviceStatus:
        return DeviceStatus(availability="idle", location="lab")

    async def connect(self) -> None:
        pass

    async def disconnect(self) -> None:
        pass

    @rpc()
    async def add(self, a: int, b: int) -> dict:
        """What other devices call."""
        self.record.calls.append([get_rpc_source_device(), a, b])
        await self.added(total=a + b)
        return {"sum": a + b}

    @emit()
    async def added(self, total: int):
        """What other devices are told of."""

    @on(event_name="added")
    async def on_added(self, device_id: str, event_name: str, payload: dict) -> None:
        self.record.events.append([device_id, payload["total"]])
        print(f"heard {device_id} {payload['total']}", flush=True)

    @on(event_name="device.online")
    async def on_online(self, device_id: str, event_name: str, payload: dict) -> None:
        self.record.online.append(device_id)
        print(f"online {device_id}", flush=True)

    async def meet(self, device_id: str) -> None:
        """What a driver does with another device: it finds it, calls it, and tells all others."""
        found = await self.wait_for_device(device_id=device_id, timeout=MEETING_SECONDS)
        functions = [function["name"] for function in found["capabilities"]["functions"]]
        called = self.invoke_remote(device_id, "add", timeout=NO_ANSWER_SECONDS, a=2, b=3)
        self.record.met = {"add" if "add" in functions else "nothing": await attempt(called)}
        await self.added(total=7)
        print(f"met {device_id}", flush=True)

    @rpc()
    async def seen(self) -> dict:
        """What happened so far."""
        return asdict(self.record)

    @rpc()
    async def peers(self) -> list:
        """What the registry knows."""
        return [device["device_id"] for device in await self.list_devices()]

    @rpc()
    async def call(self, device_id: str, a: int, b: int) -> dict:
        """Calls another device as any driver does."""
        return await attempt(self.invoke_remote(device_id, "add", a=a, b=b))

    @rpc()
    async def reach(self, subjects: list) -> dict:
        """Sends calls to subjects that may be somebody else's."""
        request = json.dumps(
            {"jsonrpc": "2.0", "id": "1", "method": "add", "params": {"a": 6, "b": 6}}
        ).encode()
        calls = [
            attempt(self.transport.request(subject, request, timeout=NO_ANSWER_SECONDS))
            for subject in subjects
        ]
        return dict(zip(subjects, await asyncio.gather(*calls)))

    @rpc()
    async def overhear(self, subjects: list) -> None:
        """Subscribes to subjects that may be somebody else's."""

        async def overheard(data: bytes, reply: str | None) -> None:
            self.record.overheard.append(data.decode())

        for subject in subjects:
            await self.transport.subscribe(subject, overheard)

    @rpc()
    async def forge(self, subject: str, total: int) -> None:
        """Publishes an event on a subject that may be somebody else's."""
        event = {"jsonrpc": "2.0", "method": "added", "params": {"total": total}}
        await self.transport.publish(subject, json.dumps(event).encode())


async def attempt(call: Any) -> dict:
    """What comes of a call: an answer or an error."""
    try:
        answer = await call
        return answer if isinstance(answer, dict) else json.loads(answer)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


class Errors(logging.Handler):
    """The package tells nobody of the server's errors; it logs them."""

    def __init__(self, record: Seen) -> None:
        super().__init__(logging.WARNING)
        self.record = record

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        print(message, file=sys.stderr)
        if message.startswith("NATS error"):
            self.record.errors.append(message)


async def main(meets: str | None = None, **runtime_of: Any) -> dict[str, Any]:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    camera = Camera()
    record = camera.record
    logging.getLogger("device_connect_edge.messaging.nats_adapter").addHandler(Errors(record))
    runtime = DeviceRuntime(driver=camera, **{"ttl": TTL_SECONDS, **runtime_of})

    async def on_connection(connected: bool) -> None:
        record.connected.append(connected)

    meetings: list[asyncio.Task] = []

    async def on_registration() -> None:
        record.registrations += 1
        if meets and not meetings:
            meetings.append(asyncio.create_task(camera.meet(meets)))

    runtime.add_connection_listener(on_connection)
    runtime.add_registration_listener(on_registration)
    running = asyncio.create_task(runtime.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        record.ended = repr(running.exception())
    # Before the device disconnects by itself.
    seen = asdict(record)
    running.cancel()
    stopping.cancel()
    await asyncio.gather(running, stopping, return_exceptions=True)
    return seen


if __name__ == "__main__":
    given = sys.stdin.read() if sys.argv[1] == "-" else sys.argv[1]
    print(json.dumps(asyncio.run(main(**json.loads(given)))), flush=True)
