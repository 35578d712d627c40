"""aiomqtt clients: one of acme that tries everything, and one whose token is no good."""

import asyncio
import json
import ssl
import sys
from typing import Any

import aiomqtt


async def heard(client: aiomqtt.Client, count: int) -> list[Any]:
    messages = []
    async with asyncio.timeout(20):
        async for message in client.messages:
            messages.append([str(message.topic), message.payload.decode()])
            if len(messages) == count:
                break
    return messages


async def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    options = {
        "hostname": "localhost",
        "port": told["port"],
        "username": "any",
        "protocol": aiomqtt.ProtocolVersion.V5,
        "tls_context": ssl.create_default_context(cafile=told["certificate"]),
    }
    results: dict[str, Any] = {}
    try:
        async with aiomqtt.Client(identifier="nobody", password="not-a-token", **options):
            results["nobody"] = "connected"
    except aiomqtt.MqttError as error:
        results["nobody"] = str(error)
    async with aiomqtt.Client(identifier="aio", password=told["token"], **options) as client:
        results["granted"] = []
        for topic in told["filters"]:
            results["granted"] += [code.value for code in await client.subscribe(topic, qos=1)]
        print("ready", flush=True)
        results["heard"] = await heard(client, 1)
        for qos in (0, 1, 2):
            await client.publish(told["own"], f"own {qos}", qos=qos)
            await client.publish(told["foreign"], "attack", qos=qos)
        results["heard"] += await heard(client, 3)
    print(json.dumps(results))


asyncio.run(main())
