"""A member of acme turns JetStream against globex, which has a stream of the same server.

    jetstream_across.py '{"url": "nats://…", "acme": "…", "globex": "…"}'

The tokens are those of members.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from nats.js import JetStreamContext, api
from nats.js.api import ExternalStream, RePublish, StreamSource, SubjectTransform

from peer import Peer, outcome, run

# Ways into another account's JetStream, had they been opened.
EXTERNALS = [
    ExternalStream(api="$JS.globex.API", deliver="device-connect.globex.x"),
    ExternalStream(api="$JS.API", deliver="device-connect.globex.x"),
    ExternalStream(api="device-connect.globex.API", deliver="device-connect.acme.x"),
]


def thefts(js: JetStreamContext) -> dict[str, Awaitable[Any]]:
    """Streams of acme that would hold what is globex's."""
    vault = StreamSource(name="VAULT")
    configs = {
        "SOURCE": {"sources": [vault]},
        "MIRROR": {"mirror": vault},
        "SUBJECTS": {"subjects": ["device-connect.globex.>"]},
    }
    for number, external in enumerate(EXTERNALS):
        outside = StreamSource(name="VAULT", external=external)
        configs[f"SOURCE-{number}"] = {"sources": [outside]}
        configs[f"MIRROR-{number}"] = {"mirror": outside}
    return {name: js.add_stream(name=name, **config) for name, config in configs.items()}


def intrusions(js: JetStreamContext) -> dict[str, Awaitable[Any]]:
    """Consumers and streams of acme that would bring something to globex."""
    return {
        "deliver": js.add_consumer(
            "OWN", durable_name="push", deliver_subject="device-connect.globex.x"
        ),
        "command": js.add_consumer(
            "OWN", durable_name="command", deliver_subject="device-connect.globex.cam-1.cmd"
        ),
        "republish": js.add_stream(
            name="REPUBLISH",
            subjects=["device-connect.acme.republish"],
            republish=RePublish(src=">", dest="device-connect.globex.>"),
        ),
        "transform": js.add_stream(
            name="TRANSFORM",
            subjects=["device-connect.acme.transform"],
            subject_transform=SubjectTransform(src=">", dest="device-connect.globex.>"),
        ),
    }


def grasps(js: JetStreamContext) -> dict[str, Awaitable[Any]]:
    """What acme would do with the stream itself."""
    return {
        "info": js.stream_info("VAULT"),
        "read": js.get_msg("VAULT", 1),
        "purge": js.purge_stream("VAULT"),
        "delete": js.delete_stream("VAULT"),
        "consume": js.add_consumer("VAULT", durable_name="thief"),
    }


async def attempt(actions: dict[str, Awaitable[Any]]) -> dict[str, str]:
    """Does one after the other and says which the server agreed to."""
    results = {}
    for name, action in actions.items():
        result = await outcome(action)
        results[name] = result["error"] if isinstance(result, dict) else "done"
    return results


async def contents(js: JetStreamContext) -> dict[str, list[str]]:
    """What each stream holds."""
    held = {}
    for stream in await js.streams_info():
        name, last = stream.config.name, stream.state.last_seq
        messages = [await js.get_msg(name, number) for number in range(1, last + 1)]
        held[name] = [message.data.decode() for message in messages]
    return held


async def main(url: str, acme: str, globex: str) -> dict[str, Any]:
    attacker, victim = await Peer.connect(url, token=acme), await Peer.connect(url, token=globex)
    own, foreign = attacker.jetstream, victim.jetstream

    await foreign.add_stream(name="VAULT", subjects=["device-connect.globex.vault.>"])
    witness = await victim.client.subscribe("device-connect.globex.>")
    await foreign.publish("device-connect.globex.vault.1", b"secret")
    await own.add_stream(name="OWN", subjects=["device-connect.acme.own.>"])
    await own.publish("device-connect.acme.own.1", b"own")

    results: dict[str, Any] = {
        "thefts": await attempt(thefts(own)),
        "intrusions": await attempt(intrusions(own)),
        "grasps": await attempt(grasps(own)),
    }
    for stream in ("republish", "transform"):
        await own.publish(f"device-connect.acme.{stream}", b"attack")
    await foreign.publish("device-connect.globex.vault.2", b"another secret")

    # The same within the own tenant works; what the attacks could have reached, they have by then.
    delivered = await attacker.client.subscribe("device-connect.acme.delivered")
    await own.add_consumer("OWN", durable_name="own", deliver_subject=delivered.subject)
    await own.add_stream(name="COPY", sources=[StreamSource(name="OWN")])
    results["delivered"] = (await delivered.next_msg(timeout=10)).data.decode()
    async with asyncio.timeout(20):
        while (await own.stream_info("COPY")).state.messages == 0:
            await asyncio.sleep(0.02)

    await victim.client.flush()
    results["acme holds"] = await contents(own)
    results["globex holds"] = await contents(foreign)
    results["witnessed"] = [
        (await witness.next_msg(timeout=10)).data.decode() for _ in range(witness.pending_msgs)
    ]
    await asyncio.gather(attacker.client.close(), victim.client.close())
    return results


if __name__ == "__main__":
    run(main)
