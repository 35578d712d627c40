"""What tenants do, allowed and not, so that every panel has something to show. Runs with the Python clients' packages.

It reads JSON from standard input: the authority's file, tokens of acme and globex, of a device that is to be revoked
(`gone`), the backends, and how many seconds it is to go on.
"""

import asyncio
import base64
import json
import socket
import ssl
import sys
import time


# A question to the registry, and a heartbeat of a device that it does not know.
QUESTION = json.dumps({"jsonrpc": "2.0", "id": "1", "method": "discovery/listDevices", "params": {}}).encode()
STRANGER = json.dumps({"device_id": "cam-9", "ts": 1, "status": {}}).encode()


def mqtt(told, end):
    import paho.mqtt.client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    def client(password, name, largest=None, kept=None):
        made = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        made.username_pw_set("any", password)
        made.tls_set(told["ca"])
        properties = Properties(PacketTypes.CONNECT)
        if largest:
            properties.MaximumPacketSize = largest
        if kept:
            properties.SessionExpiryInterval = kept
        made.connect("localhost", 8883, properties=properties)
        made.loop_start()
        return made

    listening, speaking = client(told["acme"], "trial-listening"), client(told["acme"], "trial-speaking")
    other, small = client(told["globex"], "trial-other"), client(told["acme"], "trial-small", 128)
    gone = client(told["gone"], "trial-gone") if "gone" in told else None
    # A session whose client is away: what it subscribes to waits for it.
    away = client(told["acme"], "trial-away", kept=300)
    away.subscribe("device-connect/acme/+/event/#", 1)
    time.sleep(1)
    away.disconnect()
    away.loop_stop()
    listening.subscribe("device-connect/acme/+/event/#", 1)
    small.subscribe("device-connect/acme/+/event/#", 1)
    reply = "_reply/0123456789abcdef0123456789abcdef"
    listening.subscribe(reply, 1)
    question = {"data": base64.b64encode(QUESTION).decode(), "reply_to": reply, "request_id": "1"}
    speaking.publish("device-connect/acme/cam-9/event/kept", "1", 1, retain=True)
    # Asked for, and not given.
    listening.subscribe("device-connect/globex/#", 1)
    while time.monotonic() < end:
        for _ in range(20):
            speaking.publish("device-connect/acme/cam-9/event/motion", "1", 1)
        # Larger than one of the receivers takes, and larger than the other tenant's quota.
        speaking.publish("device-connect/acme/cam-9/event/picture", bytes(500), 1)
        other.publish("device-connect/globex/cam-9/event/picture", bytes(5000), 1)
        speaking.publish("device-connect/acme/discovery", json.dumps(question), 1)
        speaking.publish("device-connect/acme/cam-9/heartbeat", STRANGER, 1)
        speaking.publish("device-connect/globex/cam-1/event/motion", "not mine", 1)
        # The other tenant may have one connection.
        refused = [client("no token", "trial-refused"), client(told["globex"], "trial-second")]
        time.sleep(1)
        for each in refused:
            each.loop_stop()
    for made in (listening, speaking, other, small, gone):
        if made:
            made.disconnect()
            made.loop_stop()


def zenoh(told, end):
    import zenoh

    def session(token):
        return zenoh.open(
            zenoh.Config.from_json5(
                json.dumps(
                    {
                        "mode": "client",
                        "connect": {"endpoints": ["tls/localhost:7447"], "timeout_ms": 0, "exit_on_failure": True},
                        "scouting": {"multicast": {"enabled": False}},
                        "transport": {
                            "auth": {"usrpwd": {"user": token, "password": "any"}},
                            "link": {"tls": {"root_ca_certificate": told["ca"]}},
                        },
                    }
                )
            )
        )

    def opened(token):
        # A client's first connection is sometimes lost in its own TLS.
        for _ in range(5):
            try:
                return session(token)
            except zenoh.ZError:
                time.sleep(0.5)
        return session(token)

    own = opened(told["acme"])
    heard = own.declare_subscriber("device-connect/acme/*/event/**", lambda sample: None)
    while time.monotonic() < end:
        own.put("device-connect/acme/cam-9/event/motion", "1")
        own.put("device-connect/acme/cam-9/heartbeat", STRANGER)
        for _answer in own.get("device-connect/acme/discovery", payload=QUESTION):
            pass
        own.put("device-connect/globex/cam-1/event/motion", "not mine")
        try:
            session("no token").close()
        except zenoh.ZError:
            pass
        time.sleep(1)
    heard.undeclare()
    own.close()


def nats(told, end):
    import nats as client

    async def main():
        context = ssl.create_default_context(cafile=told["ca"])

        async def quiet(error):
            pass

        def connect(token):
            return client.connect(
                "tls://localhost:4222", user="any", password=token, tls=context, allow_reconnect=False, error_cb=quiet
            )

        own = await connect(told["acme"])
        await own.subscribe("device-connect.acme.*.event.>", cb=lambda message: asyncio.sleep(0))
        while time.monotonic() < end:
            await own.publish("device-connect.acme.cam-9.event.motion", b"1")
            await own.publish("device-connect.acme.cam-9.heartbeat", STRANGER)
            try:
                await own.request("device-connect.acme.discovery", QUESTION, 2)
            except (client.errors.Error, asyncio.TimeoutError):
                pass
            await own.publish("device-connect.globex.cam-1.event.motion", b"not mine")
            try:
                await (await connect("no token")).close()
            except client.errors.Error:
                pass
            await asyncio.sleep(1)
        await own.close()

    asyncio.run(main())


def broken(port):
    """Speaks TLS, and no protocol after that."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(("localhost", port), 5) as plain, context.wrap_socket(plain) as peer:
            peer.sendall(b"\xff" * 64)
            peer.settimeout(2)
            peer.recv(1)
    except OSError:
        pass


def main():
    told = json.load(sys.stdin)
    end = time.monotonic() + told["seconds"]
    import threading

    threads = [threading.Thread(target=globals()[backend], args=(told, end)) for backend in told["backends"]]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        for backend in told["backends"]:
            broken({"nats": 4222, "mqtt": 8883, "zenoh": 7447}[backend])
        time.sleep(1)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
