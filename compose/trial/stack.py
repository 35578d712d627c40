"""One stack, brought up on an engine as `docker compose up` does."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from engine import Failure, say

COMPOSE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(COMPOSE))
import check  # noqa: E402

# How long everything may take to become healthy, in seconds.
HEALTHY = 300


class Stack:
    """A stack under a project name of its own, so that its volumes are not anybody's. Gone with everything afterwards."""

    def __init__(self, engine, name):
        self.engine = engine
        self.name = name
        self.project = f"bulkhead-trial-{name}"
        self.folder = COMPOSE / name
        self.rendered = check.render(name)["services"]
        self.services = [each for each, service in self.rendered.items() if not service.get("profiles")]
        self.compose_command = compose_command(engine)

    def images(self):
        """What is pulled, and what is built: image by target of the Dockerfile."""
        pulled, built = set(), {}
        for service in self.rendered.values():
            if service["image"].startswith("bulkhead"):
                build = service.get("build")
                if build:
                    built[build["target"]] = service["image"]
            else:
                pulled.add(service["image"])
        return pulled, built

    def without(self, images):
        """Leaves out the services whose images cannot be had."""
        self.services = [each for each in self.services if self.rendered[each]["image"] not in images]

    def compose(self, *arguments, check=True, stdin=subprocess.DEVNULL, **more):
        environment = {k: v for k, v in self.engine.environment.items() if not k.startswith(("BULKHEAD", "COMPOSE_"))}
        done = subprocess.run(
            [*self.compose_command, "--project-name", self.project, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=stdin,
            capture_output=True,
            text=True,
            **more,
        )
        if check and done.returncode != 0:
            raise Failure(f"{self.name}: compose {' '.join(arguments)}: {(done.stdout + done.stderr).strip()[-3000:]}")
        return done

    def command(self, *arguments, check=True, service="bulkhead"):
        """What `docker compose run --rm -T bulkhead …` prints."""
        return self.compose("run", "--rm", "-T", service, *arguments, check=check)

    def tell(self, *arguments):
        return self.command(*arguments).stdout

    def cat(self, service, path):
        return self.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "cat", service, path).stdout

    def up(self):
        try:
            self.compose("up", "-d", "--no-build", *self.services, timeout=HEALTHY)
        except Failure as failure:
            raise Failure(f"{failure}\n{self.unwell()}") from failure
        self.wait()

    def states(self):
        """Each service's container: running or not, how it ended, its health."""
        found = {}
        ids = self.engine.out("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}").split()
        for container in json.loads(self.engine.out("inspect", *ids)) if ids else []:
            labels = container["Config"]["Labels"]
            if labels.get("com.docker.compose.oneoff", "").lower() != "true":
                found[labels["com.docker.compose.service"]] = container
        return found

    def wait(self):
        """Until the bootstrap step has succeeded and everything else is healthy."""
        end = time.monotonic() + HEALTHY
        while True:
            states = self.states()
            late = {}
            for service in self.services:
                state = (states.get(service) or {}).get("State") or {}
                if service in check.ONCE:
                    if state.get("Status") != "exited" or state.get("ExitCode") != 0:
                        late[service] = state.get("Status", "not there")
                elif (state.get("Health") or {}).get("Status") != "healthy":
                    late[service] = (state.get("Health") or state).get("Status", "not there")
            if not late:
                return
            if time.monotonic() > end:
                raise Failure(f"{self.name}: not healthy within {HEALTHY} s: {late}\n{self.unwell()}")
            time.sleep(1)

    def unwell(self):
        """What can be known of services that are not as they should be."""
        told = []
        for service, container in self.states().items():
            state = container["State"]
            health = state.get("Health") or {}
            if state["Status"] == "running" and health.get("Status") == "healthy" or service in check.ONCE and not state["ExitCode"]:
                continue
            asked = [each["Output"].strip() for each in (health.get("Log") or [])[-1:]]
            log = self.engine.run("logs", "--tail", "20", container["Id"])
            told.append(f"{service}: {state['Status']} {health.get('Status', '')} {asked}\n{log.stdout}{log.stderr}")
        return "\n".join(told)

    def down(self):
        self.compose("down", "--volumes", "--timeout", "20", "--remove-orphans", check=False)

    def keys(self):
        """What the bootstrap step has made, by the digest of each file."""
        script = "find keys -type f ! -name platform.token -exec sha256sum {} + | sort -k 2"
        return self.shell(script).stdout

    def shell(self, script, service="bootstrap", **more):
        """Runs a script as the keys' owner, in a container of its own."""
        return self.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", service, "-c", script, **more)


def compose_command(engine):
    if engine.run("compose", "version", check=False).returncode == 0:
        return [engine.docker, "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise Failure("there is no Compose; install Docker's compose plugin, or Debian's docker-compose")
