"""device-connect-agent-tools, unmodified: finds a tenant's devices, calls them, and hears what they tell.

    agent.py '{"devices": 2, "calls": "cam-1"}'

Who it is and where it connects to is in the environment, as for any agent. `devices` is how many there have to be
before it goes on; `calls` is the device that it calls by itself, if any; besides, it calls all by a broadcast. Then it
prints what came of it as one line of JSON.
"""

import json
import sys
import time
from typing import Any

import device_connect_agent_tools as tools

# How long to wait for what others do.
WITHIN_SECONDS = 30

# How long a call may take.
CALL_SECONDS = 10

# When devices do what a broadcast says: late enough for its answers to be subscribed to.
AHEAD_SECONDS = 1


def devices_found(count: int) -> list[dict[str, Any]]:
    """Looks until there are so many devices."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while True:
        found = tools.discover("device(*)")
        if found["matched"] >= count or time.monotonic() > deadline:
            return found["results"]
        time.sleep(0.2)
        tools.get_connection().invalidate_cache()


def broadcast(count: int) -> list[dict[str, Any]]:
    """Has all devices add, and returns what so many answer."""
    asked = tools.broadcast(
        "device(*).function(add)",
        {"a": 20, "b": 3},
        fire_at=time.time() + AHEAD_SECONDS,
        on_late="fire",
    )
    replies = tools.await_replies(asked["correlation_id"], timeout=WITHIN_SECONDS, until=count)
    return sorted(replies, key=lambda reply: reply["device_id"])


def heard(events: tools.Subscription, count: int) -> list[Any]:
    """Reads so many events."""
    told: list[Any] = []
    deadline = time.monotonic() + WITHIN_SECONDS
    while len(told) < count and time.monotonic() < deadline:
        told += [event["params"]["total"] for event in events.read()]
        time.sleep(0.05)
    return sorted(told)


def main(devices: int, calls: str | None = None) -> dict[str, Any]:
    tools.connect(request_timeout=CALL_SECONDS)
    found = devices_found(devices)
    with tools.subscribe("event(added)") as events:
        called = calls and tools.invoke(f"device({calls}).function(add)", {"a": 2, "b": 3})
        told = [
            {key: reply.get(key) for key in ("device_id", "success", "result")}
            for reply in broadcast(devices)
        ]
        happened = heard(events, devices + bool(calls))
    status = tools.get_device_status(found[0]["device_id"]) if found else None
    tools.disconnect()
    return {
        "found": [[device["device_id"], device["device_type"], device["location"]] for device in found],
        "called": called,
        "told": told,
        "heard": happened,
        "status": status and [status["device_id"], status["functions"]],
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))), flush=True)
