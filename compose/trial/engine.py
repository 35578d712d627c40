"""The Docker engine that runs the stacks: one that is there, or one of our own that ends with the trial."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What services of the stacks ask for as open files. An engine that may not give it gives what it has.
OPEN_FILES = 262144


class Failure(Exception):
    """Something is not as it should be. Its text says what, and what to do."""


def say(what):
    print(f"trial: {what}", file=sys.stderr, flush=True)


class Engine:
    """An engine, by what `docker` reaches with this environment. It is somebody's: what is not the real image is kept out."""

    is_own = False

    def __init__(self, environment):
        self.environment = environment
        # Images that are not what their names say, each with what it is.
        self.stood_in = {}
        self.docker = client(environment)

    @classmethod
    def at_hand(cls):
        engine = cls(dict(os.environ))
        if engine.run("version", "--format", "{{.Server.Version}}", check=False).returncode != 0:
            raise Failure("no Docker engine answers; start one, or let this start its own: --own-engine")
        return engine

    def run(self, *arguments, check=True, **more):
        done = subprocess.run([self.docker, *arguments], env=self.environment, capture_output=True, text=True, **more)
        if check and done.returncode != 0:
            raise Failure(f"docker {' '.join(arguments[:4])}: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done

    def out(self, *arguments, **more):
        return self.run(*arguments, **more).stdout.strip()

    def has(self, image):
        return self.run("image", "inspect", image, check=False).returncode == 0

    def stop(self):
        pass


class OwnEngine(Engine):
    """A dockerd with its own socket and storage, both gone afterwards. It wants root, and Debian's docker.io or Docker's
    packages; containers' networks are made on this machine."""

    is_own = True

    def __init__(self):
        if os.geteuid() != 0:
            raise Failure("an engine of its own has to be started as root; or start Docker and leave --own-engine out")
        dockerd = shutil.which("dockerd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if not dockerd:
            raise Failure("there is no dockerd to start; install Docker (Debian: docker.io)")
        # Short, because a socket's path has to be.
        self.folder = Path(tempfile.mkdtemp(prefix="trial-", dir=os.environ.get("TRIAL_DIR")))
        host = f"unix://{self.folder}/docker.sock"
        command = [dockerd, "--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "--host", host]
        command += ["--pidfile", self.folder / "pid", *self.clamped()]
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            super().__init__({**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "1"})
            self.wait()
        except BaseException:
            self.stop()
            raise

    def clamped(self):
        """Who may not raise limits of open files cannot start what asks for more: there, limits are what there is."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard >= OPEN_FILES or hard == resource.RLIM_INFINITY:
            return []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, OPEN_FILES))
            return []
        except (ValueError, OSError):
            say(f"containers get {hard} open files at most, which is what this user may have")
        runc = self.folder / "runc"
        runc.write_text(CLAMP.format(python=sys.executable, runc=shutil.which("runc") or "/usr/sbin/runc"))
        runc.chmod(0o755)
        return ["--add-runtime", f"clamped={runc}", "--default-runtime", "clamped"]

    def wait(self):
        for _ in range(120):
            if self.run("info", check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        raise Failure(f"dockerd does not start here: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


# An OCI runtime that starts containers, and programs in them, with no higher limits than its own, and is runc otherwise.
CLAMP = """#!{python}
import json, os, resource, sys

words = sys.argv[1:]
if "create" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
elif "exec" in words and "--process" in words:
    path = words[words.index("--process") + 1]
else:
    path = None
if path:
    with open(path) as file:
        told = json.load(file)
    for limit in told.get("process", told).get("rlimits") or []:
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], hard)
    with open(path, "w") as file:
        json.dump(told, file)
os.execv("{runc}", ["runc", *words])
"""


def client(environment):
    """A `docker` that can build with BuildKit: the Dockerfile needs it. From release 23 on that takes a plugin."""
    for folder in environment["PATH"].split(":") + ["/usr/bin"]:
        program = Path(folder, "docker")
        if not program.is_file():
            continue
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split()
        plugin = subprocess.run([program, "buildx", "version"], capture_output=True).returncode == 0
        if plugin or (len(version) > 2 and version[2].split(".")[0].isdigit() and int(version[2].split(".")[0]) < 23):
            return str(program)
    raise Failure("there is no `docker` that builds with BuildKit; install Docker's CLI with its buildx plugin")
