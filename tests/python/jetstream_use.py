"""A member of a tenant uses JetStream: a stream, a key-value bucket, an object store.

    jetstream_use.py '{"url": "nats://…", "tenant": "acme", "token": "…"}'
"""

from typing import Any

from nats.js import JetStreamContext

from peer import Peer, outcome, run

# Large enough to come in many chunks, for which the server wants flow control.
OBJECT = bytes(1024 * 1024)


async def stream(js: JetStreamContext, tenant: str) -> dict[str, Any]:
    """Publishes into a stream and consumes it, once pulled and once pushed."""
    await js.add_stream(name="ORDERS", subjects=[f"device-connect.{tenant}.orders.*"])
    for order in (b"one", b"two"):
        await js.publish(f"device-connect.{tenant}.orders.new", order)
    pull = await js.pull_subscribe(f"device-connect.{tenant}.orders.*", durable="worker")
    pulled = await pull.fetch(2, timeout=5)
    for message in pulled:
        await message.ack_sync()
    push = await js.subscribe(f"device-connect.{tenant}.orders.*", durable="watcher")
    pushed = [await push.next_msg(timeout=5) for _ in range(2)]
    return {
        "pulled": [message.data.decode() for message in pulled],
        "pushed": [message.data.decode() for message in pushed],
        "unacknowledged": (await pull.consumer_info()).num_ack_pending,
    }


async def key_value(js: JetStreamContext) -> dict[str, Any]:
    """Puts, gets, watches and deletes."""
    bucket = await js.create_key_value(bucket="settings")
    await bucket.put("colour", b"red")
    watcher = await bucket.watchall()
    watched = await watcher.updates(timeout=5)
    got = await bucket.get("colour")
    await bucket.delete("colour")
    return {
        "got": got.value.decode(),
        "watched": watched.value.decode(),
        "deleted": await outcome(bucket.get("colour")),
    }


async def object_store(js: JetStreamContext) -> bool:
    """Whether an object comes out as it went in."""
    store = await js.create_object_store("files")
    await store.put("picture", OBJECT)
    return (await store.get("picture")).data == OBJECT


async def main(url: str, tenant: str, token: str) -> dict[str, Any]:
    member = await Peer.connect(url, token=token)
    js = member.jetstream
    results = {
        "stream": await outcome(stream(js, tenant)),
        "key_value": await outcome(key_value(js)),
        "object_store": await outcome(object_store(js)),
        "refusals": member.refusals,
    }
    await member.client.close()
    return results


if __name__ == "__main__":
    run(main)
