"""Whether containers are what their stack says: seen from outside, in what the kernel says of their processes."""

import os
from pathlib import Path

from engine import Failure


def process(container):
    """A container's first process, if it is on this machine and ours to kill: on another one, or in a virtual one, its number
    is somebody else's here."""
    pid, name = container["State"]["Pid"], container["Config"]["Hostname"]
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    # An engine gives each container its own name, which is part of its id.
    is_own = name and container["Id"].startswith(name) and f"HOSTNAME={name}".encode() in environment
    return pid if pid > 1 and is_own and os.geteuid() == 0 else None


def confined(stack):
    """Holds every running container against what check.py demands of the file."""
    seen = 0
    for service, container in stack.states().items():
        if container["State"]["Status"] != "running":
            continue
        where = f"{stack.name}/{service}"
        host = container["HostConfig"]
        if not host["ReadonlyRootfs"] or host["Privileged"] or not host["Memory"] or not host["PidsLimit"]:
            raise Failure(f"{where}: runs without a limit, or may write to its root")
        if container["HostConfig"]["RestartPolicy"]["Name"] not in ("unless-stopped", "always"):
            raise Failure(f"{where}: is not started again when it ends")
        # On another machine, or in a virtual one, the engine's processes cannot be seen.
        status = Path(f"/proc/{container['State']['Pid']}/status")
        if not status.exists():
            continue
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        users = set(lines["Uid"].split()) | set(lines["Gid"].split())
        powers = {lines[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        if users != {"65532"} or powers != {""} or lines["NoNewPrivs"].strip() != "1":
            raise Failure(f"{where}: its process has {sorted(users)}, {lines['CapEff'].strip()}, {lines['NoNewPrivs'].strip()}")
        seen += 1
    return seen
