"""What the README does with a stack, from nothing to the first message, and what goes wrong in daily use."""

import io
import json
import os
import signal
import ssl
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import panels
from confined import confined, process
from engine import Failure, say

HERE = Path(__file__).resolve().parent
DEVICE = HERE.parents[1] / "tests/python/device.py"
BACKENDS = {"nats": ["nats"], "mqtt": ["mqtt"], "mqtt-upstream": ["mqtt"], "zenoh": ["zenoh"], "all": ["nats", "mqtt", "zenoh"]}
# How long anything may take to show, in seconds.
SOON = 60


def until(what, holds, within=SOON, why=lambda: ""):
    end = time.monotonic() + within
    while not holds():
        if time.monotonic() > end:
            raise Failure(f"not within {within} s: {what}\n{why()}")
        time.sleep(1)


class Walk:
    """A walk through one stack. `python` has the clients' packages; without it, there are no devices and no load."""

    def __init__(self, stack, python):
        self.stack = stack
        self.python = python
        self.backends = BACKENDS[stack.name]
        self.folder = tempfile.TemporaryDirectory(prefix="trial-")
        # Nobody else gets in here: tokens and credentials are among what is kept.
        self.at = Path(self.folder.name)
        self.devices = {}

    def all(self):
        """Everything, in order. Returns the dashboards' queries with an answer, and those without."""
        steps = [self.begin, self.verify, self.present, self.quiet, self.again, self.replaced, self.killed, self.restored]
        for step in [*steps, self.cut]:
            say(f"{self.stack.name}: {step.__doc__.splitlines()[0].rstrip('.').lower()}")
            step()
        return self.shown()

    def end(self):
        for device in self.devices.values():
            device.terminate()
        for device in self.devices.values():
            device.wait(30)
        self.folder.cleanup()

    def token(self, tenant, *more):
        return self.stack.tell("token", "mint", "--tenant", tenant, "--key", "keys/issuer/first.key", *more).strip()

    def begin(self):
        """Start everything, and make two tenants."""
        self.stack.up()
        if confined(self.stack) == 0:
            say("the engine's processes are elsewhere: what they may do was only asked of the engine")
        self.stack.tell("check")
        # Without a quota of its own, a tenant has no JetStream, and nothing could be tried on it.
        streams = ["--jetstream-streams", "4", "--jetstream-storage-bytes", "10000000", "--jetstream-memory-bytes", "1000000"]
        for tenant in ("acme", "globex"):
            self.stack.tell("tenant", "create", tenant, *(streams if "nats" in self.backends else []))
        (self.at / "ca.pem").write_text(self.stack.cat("bulkhead", "keys/public/ca.pem"))
        self.tokens = {tenant: self.token(tenant, "--role", "member") for tenant in ("acme", "globex")}

    def verify(self):
        """Let `bulkhead verify` try to get across."""
        urls = {"nats": "tls://nats:4222", "mqtt": "mqtts://mqtt:8883", "zenoh": "tls/zenohd:7447"}
        lines = []
        for backend in self.backends:
            lines += [f"[{backend}]", f'urls = ["{urls[backend]}"]', 'ca_file = "ca.pem"']
            for side, tenant in (("a", "acme"), ("b", "globex")):
                prefix = "device-connect.{}" if backend == "nats" else "device-connect/{}"
                lines += [f"[{backend}.{side}]", f'name = "{tenant}"', f'token_file = "{tenant}.token"']
                lines += [f'prefix = "{prefix.format(tenant)}"']
        files = {f"{tenant}.token": token for tenant, token in self.tokens.items()}
        files |= {"ca.pem": (self.at / "ca.pem").read_text(), "deployment.toml": "\n".join(lines) + "\n"}
        with tarfile.open(self.at / "verify.tar", "w") as packed:
            for name, text in files.items():
                file = tarfile.TarInfo(name)
                file.size, file.mode, file.mtime = len(text.encode()), 0o600, int(time.time())
                packed.addfile(file, io.BytesIO(text.encode()))
        report = self.tried()
        if report["result"] == "unknown" or report["result"] == "isolated" and report["not_tried"]:
            # A busy machine may be slow to answer; a leak is one whenever it shows.
            report = self.tried()
        rows = report["rows"]
        wrong = [row for row in rows if row["result"] != "isolated"]
        if wrong or {row["backend"] for row in rows} != set(self.backends):
            raise Failure(f"{self.stack.name}: not isolated: {json.dumps(wrong, indent=1)}")
        # A stack has everything that a row wants: streams, a registry, retained messages.
        if report["not_tried"]:
            raise Failure(f"{self.stack.name}: not tried: {json.dumps(report['not_tried'], indent=1)}")
        say(f"{self.stack.name}: {len(rows)} rows were tried, and held")

    def tried(self):
        """What `bulkhead verify` reports."""
        # The container's user is another one. Through standard input into its own memory, nobody else has to be let in.
        script = "cd /tmp && tar -xf - && exec bulkhead --json verify deployment.toml"
        with open(self.at / "verify.tar", "rb") as packed:
            done = self.stack.shell(script, "bulkhead", stdin=packed, check=False)
        try:
            report = json.loads(done.stdout[done.stdout.index("{") :])
            return {part: report[part] for part in ("result", "rows", "not_tried")}
        except (ValueError, KeyError) as error:
            said = (done.stdout + done.stderr)[-4000:]
            raise Failure(f"{self.stack.name}: verify ended with {done.returncode}: {said}") from error

    def present(self):
        """Start devices with credentials of the exchange, and see them present."""
        if not self.python:
            return
        for backend in self.backends:
            self.start(backend)
        until("all devices are present", self.all_present, why=self.told)

    def start(self, backend):
        device = f"cam-{backend}"
        if device in self.devices:
            self.devices[device].terminate()
            self.devices[device].wait(30)
        token = self.token("acme", "--device", device)
        issued = self.exchange(token, backend)
        if backend == "mqtt":
            # The package reads no MQTT section of a credentials file.
            section = issued["mqtt"]
            made_of = {"messaging_backend": "mqtt", "messaging_urls": section["urls"], "tenant": "acme"}
            made_of |= {"device_id": device, "messaging_auth": section["credentials"]}
        else:
            path = self.at / f"{device}.json"
            path.write_text(json.dumps(issued))
            made_of = {"credentials_file": str(path)}
        with open(self.at / f"{device}.log", "a") as log:
            environment = dict(os.environ)
            # Credentials for Zenoh hold the authority; for the others, the package is told of a file.
            if backend != "zenoh":
                environment["MESSAGING_TLS_CA_FILE"] = environment["SSL_CERT_FILE"] = str(self.at / "ca.pem")
            self.devices[device] = self.started(DEVICE, made_of, "-", stdout=log, stderr=log, env=environment)

    def all_present(self):
        return self.online() == {f"cam-{backend}" for backend in self.backends}

    def told(self):
        """What the devices say, who is listed, and what services wrote."""
        logs = "".join(path.read_text()[-1500:] for path in self.at.glob("*.log"))
        return f"{logs}\nonline: {self.online()}\n{self.stack.compose('logs', '--tail', '8', check=False).stdout}"

    def exchange(self, token, backend):
        request = urllib.request.Request(
            "https://localhost:8443/v1/credentials",
            json.dumps({"backend": backend}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=self.at / "ca.pem")
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            said = refused.read().decode(errors="replace")[:500]
            raise Failure(f"{self.stack.name}: the exchange gives no credentials for {backend}: {refused.code} {said}") from refused
        except OSError as error:
            raise Failure(f"{self.stack.name}: the exchange cannot be asked: {error}") from error

    def online(self):
        listed = json.loads(self.stack.command("--json", "list", "--tenant", "acme", service="devices").stdout)
        return {device["device"] for device in listed}

    def quiet(self):
        """See that no service complains."""
        errors = [line for line in self.stack.compose("logs", "--no-color").stdout.splitlines() if '"level":"ERROR"' in line]
        if errors:
            raise Failure(f"{self.stack.name}: {len(errors)} errors were logged, first {errors[0]}")

    def again(self):
        """Start everything again: no key is made anew, nothing is interrupted."""
        before, ids = self.stack.keys(), {name: each["Id"] for name, each in self.stack.states().items()}
        self.stack.up()
        if before != self.stack.keys() or not before:
            raise Failure(f"{self.stack.name}: a second start changed keys")
        after = {name: each["Id"] for name, each in self.stack.states().items()}
        if {name: ids[name] for name in ids if name != "bootstrap"} != {name: after[name] for name in after if name != "bootstrap"}:
            raise Failure(f"{self.stack.name}: a second start replaced containers")

    def replaced(self):
        """Replace one callout after the other, as the runbook says: who comes meanwhile gets in."""
        if "nats" not in self.backends or not self.python:
            return
        before = self.stack.states()
        told = {"ca": str(self.at / "ca.pem"), "acme": self.tokens["acme"]}
        with open(self.at / "comers.log", "w") as log:
            comers = self.started(HERE / "comers.py", told, stdout=subprocess.PIPE, stderr=log)
        try:
            for callout in ("callout", "callout-2"):
                self.stack.compose("up", "-d", "--no-build", "--no-deps", "--force-recreate", callout)
                self.stack.wait()
        finally:
            comers.terminate()
            said = comers.stdout.read()
            comers.wait(30)
        after = self.stack.states()
        kept = [name for name in ("callout", "callout-2") if before[name]["Id"] == after[name]["Id"]]
        result = json.loads(said) if said else {"came": 0, "refused": [(self.at / "comers.log").read_text()[-2000:]]}
        if kept or result["refused"] or not result["came"]:
            raise Failure(f"{self.stack.name}: while the callouts were replaced: {result}, not replaced: {kept}")
        say(f"{self.stack.name}: {result['came']} clients came in meanwhile, and none was refused")

    def killed(self):
        """Kill each service once: the engine starts it again, and devices are present as before."""
        for service in self.stack.states():
            container = self.stack.states()[service]
            if container["State"]["Status"] != "running":
                continue
            before = container["RestartCount"]
            if self.kill(service, container):
                until(f"{service} was started again", lambda: self.stack.states()[service]["RestartCount"] > before)
            else:
                say(f"{self.stack.name}: {service} was not killed: its process is out of reach, and its image has no shell")
        self.stack.wait()
        if self.python:
            # Over MQTT, the package does not connect again by itself.
            if "mqtt" in self.backends:
                self.start("mqtt")
            until("all devices are present again", self.all_present, 120, self.told)

    def kill(self, service, container):
        """Kills what runs in a container. The engine takes its own `kill` for a wish, and does not start the container again."""
        pid = process(container)
        try:
            if pid:
                os.kill(pid, signal.SIGKILL)
                return True
        except (PermissionError, ProcessLookupError):
            pass
        done = self.stack.compose("exec", "-T", service, "sh", "-c", "kill -9 -1", check=False)
        # There is nothing to run, or it may not be run.
        return done.returncode not in (126, 127)

    def restored(self):
        """Restore etcd from a snapshot, as the runbook says."""
        keys = "/bulkhead/keys"
        ectl = ["exec", "-T", "etcd", "etcdctl", "--endpoints=https://localhost:2379", f"--cacert={keys}/public/ca.pem"]
        ectl += [f"--cert={keys}/etcd/etcd.pem", f"--key={keys}/etcd/etcd.key"]
        saved, snapshot = "/var/lib/etcd/snapshot.db", self.at / "etcd.db"
        self.stack.compose(*ectl, "snapshot", "save", saved)
        self.stack.engine.run("cp", f"{self.stack.states()['etcd']['Id']}:{saved}", str(snapshot))
        snapshot.chmod(0o600)
        self.stack.tell("tenant", "create", "later")
        writers = ["nats", "callout", "callout-2", "mqtt", "zenohd", "registry", "etcd"]
        self.stack.compose("stop", *[each for each in writers if each in self.stack.services])
        with open(snapshot, "rb") as file:
            self.stack.shell("umask 077 && cd volumes/etcd && rm -rf restored && cat > snapshot.db", stdin=file)
        arguments = f"{saved} --data-dir /var/lib/etcd/restored --name etcd-1 --initial-cluster etcd-1=http://127.0.0.1:2380"
        arguments += " --initial-advertise-peer-urls http://127.0.0.1:2380 --bump-revision 1000000000 --mark-compacted"
        run = ["run", "--rm", "-T", "--no-deps", "--entrypoint", "/usr/local/bin/etcdutl", "etcd"]
        self.stack.compose(*run, "snapshot", "restore", *arguments.split())
        self.stack.shell("cd volumes/etcd && rm -rf member && mv restored/member . && rm -r restored snapshot.db")
        self.stack.compose("up", "-d", "--no-build", "etcd")
        until("etcd is well", lambda: self.stack.compose(*ectl, "endpoint", "health", check=False).returncode == 0)
        self.stack.up()
        tenants = {each["id"] for each in json.loads(self.stack.tell("--json", "tenant", "list"))}
        if tenants != {"acme", "globex"}:
            raise Failure(f"{self.stack.name}: after the restore there are {tenants}")
        self.stack.tell("check")
        if self.python:
            if "mqtt" in self.backends:
                self.start("mqtt")
            until("all devices are present after the restore", self.all_present, 120, self.told)

    def cut(self):
        """Revoke devices and suspend a tenant, whose clients are connected, twice."""
        if not self.python:
            return
        self.stack.tell("tenant", "quota", "globex", "payload_bytes=1000", "messages_per_day=100000", "connections=1")
        for gone in ("gone-1", "gone-2"):
            load = self.load(30, gone=self.token("acme", "--device", gone))
            # Prometheus looks every ten seconds.
            time.sleep(12)
            self.stack.tell("device", "revoke", "--tenant", "acme", gone)
            self.stack.tell("tenant", "suspend", "acme")
            until("no device of a suspended tenant is present", lambda: not self.online())
            load.wait(120)
            self.stack.tell("tenant", "resume", "acme")
            # The package may give up on a broker that refuses it.
            for backend in self.backends:
                self.start(backend)
            until("devices come back", self.all_present, why=self.told)

    def load(self, seconds, **more):
        told = {"ca": str(self.at / "ca.pem"), "backends": self.backends, "seconds": seconds, **self.tokens, **more}
        return self.started(HERE / "load.py", told, stderr=subprocess.DEVNULL)

    def started(self, program, told, *arguments, **more):
        """Starts a program, which is told by standard input: a command line could be read by everybody."""
        started = subprocess.Popen([self.python, program, *arguments], stdin=subprocess.PIPE, text=True, **more)
        started.stdin.write(json.dumps(told))
        started.stdin.close()
        return started

    def shown(self):
        """What the dashboards show of all that, after Prometheus has looked a few times."""
        if self.python:
            self.load(35).wait(120)
        until("every target is scraped", lambda: not panels.down(self.stack))
        return panels.shown(self.stack)
