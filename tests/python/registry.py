"""A stand-in for the registry, with its own credentials and its wire contract for NATS.

    registry.py '{"url": "nats://…", "credentials": "registry.creds"}'

It takes registrations of all tenants on the subjects that they come in on, asks each new device for
the same once more, and lists a tenant's devices to that tenant. At SIGTERM it prints what it has as
one line of JSON.
"""

import asyncio
import json
import signal
import sys
import time
import uuid
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

PULL_SECONDS = 5


class Registry:
    client: Client

    def __init__(self) -> None:
        self.devices: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self.pulls: set[asyncio.Task] = set()

    async def serve(self, url: str, credentials: str) -> None:
        self.client = await nats.connect(url, user_credentials=credentials, error_cb=self.on_error)
        await self.client.subscribe("device-connect.*.registry", "registry", self.on_registry)
        await self.client.subscribe("device-connect.*.discovery", "orch", self.on_discovery)
        await self.client.subscribe("device-connect.*.*.heartbeat", cb=self.on_heartbeat)
        await self.client.flush()

    async def on_error(self, error: Exception) -> None:
        self.errors.append(str(error))

    async def on_registry(self, message: Msg) -> None:
        tenant = message.subject.split(".")[1]
        request = json.loads(message.data)
        document = dict(request["params"], heartbeats=0, pulled=False)
        self.devices.setdefault(tenant, {})[document["device_id"]] = document
        await self.announce(tenant, document["device_id"])
        registration = {"status": "registered", "device_registration_id": str(uuid.uuid4())}
        await self.answer(message, request, registration)
        # Not here: the device answers only after it has this answer.
        pull = asyncio.create_task(self.pull(tenant, document))
        self.pulls.add(pull)
        pull.add_done_callback(self.pulls.discard)

    async def on_discovery(self, message: Msg) -> None:
        tenant = message.subject.split(".")[1]
        devices = [device for _, device in sorted(self.devices.get(tenant, {}).items())]
        page = {"devices": devices, "next_offset": None, "total_matched": len(devices)}
        await self.answer(message, json.loads(message.data), page)

    async def on_heartbeat(self, message: Msg) -> None:
        _, tenant, device, _ = message.subject.split(".")
        if document := self.devices.get(tenant, {}).get(device):
            document["heartbeats"] += 1

    async def announce(self, tenant: str, device: str) -> None:
        online = {"device_id": device, "ts": time.time()}
        await self.client.publish(
            f"device-connect.{tenant}.device.online",
            json.dumps({"jsonrpc": "2.0", "method": "device/online", "params": online}).encode(),
        )

    async def pull(self, tenant: str, document: dict[str, Any]) -> None:
        """Asks a device for its registration, with an inbox in its tenant's part."""
        device = document["device_id"]
        inbox = f"_INBOX.{tenant}.{uuid.uuid4().hex}"
        answers = await self.client.subscribe(inbox, max_msgs=1)
        request = {"jsonrpc": "2.0", "id": inbox, "method": "requestRegistration", "params": {}}
        await self.client.publish(
            f"device-connect.{tenant}.{device}.cmd", json.dumps(request).encode(), reply=inbox
        )
        answer = json.loads((await answers.next_msg(PULL_SECONDS)).data)
        document["pulled"] = answer["result"]["device_id"] == device

    async def answer(self, message: Msg, request: dict[str, Any], result: Any) -> None:
        response = {"jsonrpc": "2.0", "id": request["id"], "result": result}
        await message.respond(json.dumps(response).encode())


async def main(url: str, credentials: str) -> dict[str, Any]:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    registry = Registry()
    await registry.serve(url, credentials)
    await stop.wait()
    await registry.client.close()
    registered = {tenant: sorted(devices) for tenant, devices in registry.devices.items()}
    return {"registered": registered, "errors": registry.errors}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(**json.loads(sys.argv[1])))), flush=True)
