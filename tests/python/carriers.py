"""A device of acme connects in every way that nats-py has, and tries to reach globex each time.

    carriers.py '{"url": "nats://…", "token": "…", "credentials": {…}, "globex": "…"}'

`token` and `credentials` are those of acme/cam-1, `globex` is the token of a member there.
"""

import asyncio
from typing import Any

from nats.aio.client import RawCredentials
from nats.aio.subscription import Subscription

from peer import Peer, run

OWN = "device-connect.acme.cam-1.event.motion"
FOREIGN = "device-connect.globex.cam-1.event.motion"
WIRETAPS = ["device-connect.globex.>", "device-connect.*.cam-1.event.>", "device-connect.>", ">"]


def carriers(url: str, token: str, credentials: dict[str, str]) -> dict[str, tuple[str, dict]]:
    """Address and options of each way to connect."""
    host = url.removeprefix("nats://")
    file = RawCredentials(
        f"-----BEGIN NATS USER JWT-----\n{credentials['jwt']}\n"
        "------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{credentials['nkey_seed']}\n"
        "------END USER NKEY SEED------\n"
    )
    return {
        "auth_token": (url, {"token": token}),
        "password": (url, {"user": "anybody", "password": token}),
        "url user": (f"nats://{token}@{host}", {}),
        "url password": (f"nats://anybody:{token}@{host}", {}),
        "credentials": (url, {"user_credentials": file}),
    }


async def attack(device: Peer, victim: Peer) -> dict[str, Any]:
    """Listens and publishes where it may not, then where it may."""
    received = await device.client.subscribe(OWN)
    witnessed = await victim.client.subscribe("device-connect.globex.>")
    await victim.client.flush()
    stolen = []
    for subject in WIRETAPS:
        stolen.append(await device.client.subscribe(subject))
        stolen.append(await device.client.subscribe(subject, queue="q"))
    await device.client.publish(FOREIGN, b"attack")
    await device.client.flush()

    await victim.client.publish(FOREIGN, b"secret")
    await victim.client.flush()
    await device.client.publish(OWN, b"own")
    await device.client.flush()
    return {
        "refusals": device.refusals,
        "stolen": sum(subscription.pending_msgs for subscription in stolen),
        "received": await payloads(received),
        "witnessed": await payloads(witnessed),
    }


async def payloads(subscription: Subscription) -> list[str]:
    """What has arrived, which is at least one message."""
    messages = [await subscription.next_msg(timeout=10)]
    while subscription.pending_msgs:
        messages.append(await subscription.next_msg(timeout=10))
    return [message.data.decode() for message in messages]


async def main(
    url: str, token: str, credentials: dict[str, str], globex: str
) -> dict[str, dict[str, Any]]:
    results = {}
    for name, (address, options) in carriers(url, token, credentials).items():
        device = await Peer.connect(address, **options)
        victim = await Peer.connect(url, token=globex)
        results[name] = await attack(device, victim)
        await asyncio.gather(device.client.close(), victim.client.close())
    return results


if __name__ == "__main__":
    run(main)
