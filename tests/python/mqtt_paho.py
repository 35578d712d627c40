"""A paho-mqtt client of acme: does what it may, and tries what it may not, over one transport."""

import json
import queue
import sys
import threading
from typing import Any

import paho.mqtt.client as mqtt

WITHIN = 20.0


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    version = mqtt.MQTTv5 if told["version"] == 5 else mqtt.MQTTv311
    websockets = told["transport"] in ("ws", "wss")
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=told["client_id"],
        protocol=version,
        transport="websockets" if websockets else "tcp",
        reconnect_on_failure=False,
    )
    client.username_pw_set("any", told["token"])
    if told["transport"] in ("tls", "wss"):
        client.tls_set(ca_certs=told["certificate"])
    connected: queue.Queue[str] = queue.Queue()
    granted: queue.Queue[list[int]] = queue.Queue()
    published: queue.Queue[tuple[int, str]] = queue.Queue()
    messages: queue.Queue[tuple[str, str]] = queue.Queue()
    gone = threading.Event()
    client.on_connect = lambda c, u, f, reason, p: connected.put(str(reason))
    client.on_subscribe = lambda c, u, m, reasons, p: granted.put([r.value for r in reasons])
    client.on_publish = lambda c, u, mid, reason, p: published.put((mid, str(reason)))
    client.on_message = lambda c, u, m: messages.put((m.topic, m.payload.decode()))
    client.on_disconnect = lambda c, u, f, reason, p: gone.set()

    results: dict[str, Any] = {}
    client.connect("localhost", told["port"])
    client.loop_start()
    results["connected"] = connected.get(timeout=WITHIN)
    results["granted"] = []
    for topic in told["filters"]:
        client.subscribe(topic, qos=2)
        results["granted"] += granted.get(timeout=WITHIN)
    print("ready", flush=True)
    # What others publish until the go-ahead is not for this client.
    results["heard"] = [messages.get(timeout=WITHIN)]
    for qos in (0, 1, 2):
        client.publish(told["own"], f"own {qos}", qos=qos)
        published.get(timeout=WITHIN)
        results["heard"].append(messages.get(timeout=WITHIN))
    results["refusals"] = []
    attack = client.publish(told["foreign"], "attack", qos=1)
    if version == mqtt.MQTTv5:
        mid, reason = published.get(timeout=WITHIN)
        results["refusals"].append(reason if mid == attack.mid else "another message")
        client.disconnect()
        gone.wait(WITHIN)
    else:
        results["cut"] = gone.wait(WITHIN)
        results["acknowledged"] = published.qsize()
    client.loop_stop()
    results["left"] = messages.qsize()
    print(json.dumps(results))


main()
