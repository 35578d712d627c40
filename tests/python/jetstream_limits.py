"""A member of a tenant takes as much of JetStream as it gets.

    jetstream_limits.py '{"url": "nats://…", "tenant": "acme", "token": "…"}'

Says of each step whether it was done.
"""

from typing import Any

from nats.js import JetStreamContext, api

from peer import Peer, outcome, run

CHUNK = bytes(64 * 1024)
MOST_CHUNKS = 256


async def add_stream(js: JetStreamContext, tenant: str, name: str, storage: str = "file") -> str:
    subjects = [f"device-connect.{tenant}.{name}.*"]
    await js.add_stream(name=name, subjects=subjects, storage=api.StorageType(storage))
    return "done"


async def add_consumer(js: JetStreamContext, stream: str, name: str) -> str:
    await js.add_consumer(stream, durable_name=name, ack_policy=api.AckPolicy.EXPLICIT)
    return "done"


async def fill(js: JetStreamContext, subject: str) -> str:
    """Publishes until there is no more room."""
    for _ in range(MOST_CHUNKS):
        await js.publish(subject, CHUNK)
    return "done"


async def main(url: str, tenant: str, token: str) -> dict[str, Any]:
    member = await Peer.connect(url, token=token)
    js = member.jetstream
    results = {"memory": await outcome(add_stream(js, tenant, "memory", "memory"))}
    for name in ("a", "b", "c"):
        results[f"stream {name}"] = await outcome(add_stream(js, tenant, name))
    for stream, name in (("a", "one"), ("a", "two"), ("b", "three")):
        results[f"consumer {name} of {stream}"] = await outcome(add_consumer(js, stream, name))
    results["fill"] = await outcome(fill(js, f"device-connect.{tenant}.a.x"))
    results["stored"] = (await js.account_info()).storage
    await member.client.close()
    return results


if __name__ == "__main__":
    run(main)
