"""Clients of acme and of globex: what they do within their tenants, and what one tries beyond."""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zenoh
import zenoh.ext

WITHIN = 20.0
ACME = "device-connect/acme"
GLOBEX = "device-connect/globex"


def open_session(told: dict[str, Any], token: str) -> zenoh.Session:
    config = zenoh.Config()
    settings = {
        "mode": told["mode"],
        "connect/endpoints": [told["endpoint"]],
        "listen/endpoints": [],
        "scouting/multicast/enabled": False,
        "transport/auth/usrpwd/user": token,
        "transport/auth/usrpwd/password": "any",
        "transport/link/tls/root_ca_certificate": told["certificate"],
    }
    # By default a client that publishes has no time, by which advanced publishers number.
    settings["timestamping/enabled"] = True
    for setting, value in settings.items():
        config.insert_json5(setting, json.dumps(value))
    return zenoh.open(config)


class Heard:
    """What a callback was given."""

    def __init__(self, what: Callable[[Any], Any]) -> None:
        self.what = what
        self.all: list[Any] = []
        self.changed = threading.Condition()

    def __call__(self, given: Any) -> None:
        with self.changed:
            self.all.append(self.what(given))
            self.changed.notify_all()

    def comes(self, *expected: Any) -> list[Any]:
        """Waits until just as much has come as is expected, and returns it."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.all) >= len(expected), WITHIN)
            return list(self.all)


def text(sample: zenoh.Sample) -> list[str]:
    payload = sample.payload.to_bytes()
    short = payload.decode() if len(payload) < 100 else f"{len(payload)} bytes"
    return [str(sample.key_expr), short]


def kind(sample: zenoh.Sample) -> list[str]:
    return [str(sample.key_expr), "alive" if sample.kind == zenoh.SampleKind.PUT else "gone"]


def answers(replies: Any) -> list[Any]:
    """What was answered, but for what a session says about itself."""
    heard = [text(reply.ok) for reply in replies if reply.ok]
    return [answer for answer in heard if not answer[0].startswith("@/")]


def settled(session: zenoh.Session, tenant: str) -> None:
    """Waits until the router knows what the session has declared."""
    list(session.liveliness().get(f"{tenant}/nobody", timeout=WITHIN))


def main(told: dict[str, Any]) -> dict[str, Any]:
    one, two = (open_session(told, told["acme"]) for _ in range(2))
    other = open_session(told, told["globex"])
    victim = open_session(told, told["globex"])
    found: dict[str, Any] = {}

    # Beyond: declared first, so that it would hear all that follows.
    foreign = ["**", "*/**", "device-connect/**", "device-connect/*/x", f"{GLOBEX}/**"]
    stolen, asked, spied = Heard(text), Heard(lambda query: str(query.key_expr)), Heard(kind)
    # Two of them: a session gives what it sends to its own subscribers.
    attacker, forger = (open_session(told, told["acme"]) for _ in range(2))
    declared: list[Any] = []
    for keys in foreign:
        declared.append(attacker.declare_subscriber(keys, stolen))
        declared.append(attacker.declare_queryable(keys, asked, complete=True))
        declared.append(attacker.liveliness().declare_subscriber(keys, spied, history=True))
    settled(attacker, ACME)

    # Messages.
    own, witness = Heard(text), Heard(text)
    subscriber = one.declare_subscriber(f"{ACME}/**", own)
    watching = victim.declare_subscriber(f"{GLOBEX}/**", witness)
    settled(one, ACME)
    settled(victim, GLOBEX)
    for keys in [f"{GLOBEX}/x", "device-connect/*/x", "**"]:
        forger.put(keys, "attack", attachment="tenant=globex")
        forger.delete(keys)
        declared.append(forger.liveliness().declare_token(keys))
    two.put(f"{ACME}/x", "hello")
    publisher = two.declare_publisher(f"{ACME}/p", congestion_control=zenoh.CongestionControl.BLOCK)
    publisher.put("published")
    two.put(f"{ACME}/large", bytes(1 << 20), congestion_control=zenoh.CongestionControl.BLOCK)
    other.put(f"{GLOBEX}/x", "secret")
    found["messages"] = own.comes(1, 2, 3)
    found["witness"] = witness.comes(1)

    # Questions.
    def answer(value: str) -> Callable[[zenoh.Query], None]:
        return lambda query: query.reply(query.key_expr, value)

    answering = [
        two.declare_queryable(f"{ACME}/q", answer("own")),
        other.declare_queryable(f"{GLOBEX}/q", answer("secret")),
    ]
    settled(two, ACME)
    settled(other, GLOBEX)
    found["answers"] = answers(one.get(f"{ACME}/q", timeout=WITHIN))
    querier = one.declare_querier(f"{ACME}/q", timeout=WITHIN)
    settled(one, ACME)
    found["querier"] = answers(querier.get())
    found["theirs"] = answers(victim.get(f"{GLOBEX}/q", timeout=WITHIN))
    began = time.monotonic()
    found["denied"] = [
        answers(one.get(keys, timeout=WITHIN)) for keys in [f"{GLOBEX}/q", "**", "@/**", "*/*/q"]
    ]
    # Whoever is denied is told at once, and waits for no timeout.
    found["told"] = time.monotonic() - began < WITHIN

    # Who is alive.
    alive = Heard(kind)
    living = one.liveliness().declare_subscriber(f"{ACME}/**", alive)
    settled(one, ACME)
    theirs = other.liveliness().declare_token(f"{GLOBEX}/cam-1")
    token = two.liveliness().declare_token(f"{ACME}/cam-1")
    alive.comes(1)
    token.undeclare()
    found["alive"] = alive.comes(1, 2)
    settled(other, GLOBEX)
    found["alive there"] = answers(victim.liveliness().get(f"{GLOBEX}/**", timeout=WITHIN))
    found["alive denied"] = [
        answers(one.liveliness().get(keys, timeout=WITHIN)) for keys in ["**", f"{GLOBEX}/**"]
    ]

    # Who listens.
    matched = Heard(lambda status: status.matching)
    matching = two.declare_publisher(f"{ACME}/matched")
    listener = matching.declare_matching_listener(matched)
    subscriber_there = one.declare_subscriber(f"{ACME}/matched", lambda sample: None)
    matched.comes(1)
    subscriber_there.undeclare()
    subscriber.undeclare()
    found["matching"] = matched.comes(1, 2)
    nobody = one.declare_publisher(f"{GLOBEX}/x")
    found["matching denied"] = nobody.matching_status.matching

    # What was missed.
    history = zenoh.ext.declare_advanced_publisher(
        two,
        f"{ACME}/history",
        cache=zenoh.ext.CacheConfig(max_samples=10),
        sample_miss_detection=zenoh.ext.MissDetectionConfig(heartbeat=0.2),
        publisher_detection=True,
    )
    for n in range(3):
        history.put(f"{n}")
    late = Heard(lambda sample: sample.payload.to_string())
    late_subscriber = zenoh.ext.declare_advanced_subscriber(
        one,
        f"{ACME}/history",
        late,
        history=zenoh.ext.HistoryConfig(detect_late_publishers=True),
        recovery=zenoh.ext.RecoveryConfig(heartbeat=True),
        subscriber_detection=True,
    )
    late.comes(1, 2, 3)
    settled(one, ACME)
    history.put("3")
    found["history"] = late.comes(1, 2, 3, 4)

    found["stolen"], found["asked"], found["spied"] = stolen.all, asked.all, spied.all
    found["witness at last"] = witness.all
    kept = [watching, answering, living, theirs, listener, late_subscriber, declared]
    assert kept
    for session in [one, two, other, victim, attacker, forger]:
        session.close()
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
