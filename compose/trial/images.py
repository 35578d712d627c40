"""Images where none can be pulled, or where compiling ours would take too long.

Of ours, only the stages that compile may be left out: everything else of the Dockerfile is built as it stands. Of others, the
programs are real, of Debian or of a folder that is named; the release may be another than the one in the stack.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine import Failure, say

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = "debian:bookworm-20250811-slim"
# Whose packages are nearest to what the stacks pin.
NEXT_DEBIAN = "debian:trixie-slim"

# What each image of the stacks is replaced with: packages of the next Debian, files of the folder of programs, what is done
# after that, and how it begins.
ETCD = "for program in etcd etcdctl etcdutl; do ln -s /usr/bin/$program /usr/local/bin/; done"
STAND_INS = {
    "gcr.io/etcd-development/etcd": (["etcd-server", "etcd-client"], [], [ETCD], None),
    "nats": (["busybox-static"], ["nats-server"], [], None),
    "eclipse-mosquitto": (["mosquitto", "mosquitto-clients"], [], [], None),
    "prom/prometheus": (["prometheus", "wget"], [], [], "/usr/bin/prometheus"),
}


def build_own(engine, targets, binaries):
    """The images of this repository with programs that are compiled already."""
    text = (ROOT / "Dockerfile").read_text()
    first = text.index(f"FROM {DEBIAN} AS base")
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for program in ("bulkhead", "bulkhead-auth-callout", "bulkhead-mqtt-broker", "bulkhead-registry"):
            copy(binaries / program, context / "out" / program)
        copy(binaries / "zenohd", context / "out/bin/zenohd")
        copy(binaries / "libzenoh_plugin_bulkhead.so", context / "out/lib/libzenoh_plugin_bulkhead.so")
        for file in re.findall(r"^COPY (?!--from)(?:--\S+ )*(\S+) \S+$", text[first:], re.M):
            copy(ROOT / file, context / file)
        compiled = "FROM scratch AS build\nCOPY out /out\nFROM scratch AS build-zenoh\nCOPY out /out\n"
        (context / "Dockerfile").write_text(compiled + text[first:])
        for target, image in targets.items():
            say(f"building {image}")
            engine.run("build", "--network", "host", "--target", target, "--tag", image, folder)


def compile_own(engine, targets):
    """The images of this repository as its users build them."""
    provide_rust(engine)
    for target, image in targets.items():
        say(f"building {image}, which compiles it")
        engine.run("build", "--network", "host", "--target", target, "--tag", image, str(ROOT))


def copy(source, target):
    if not source.is_file():
        raise Failure(f"there is no {source}; build it first, or leave --binaries out")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def provide(engine, image, programs):
    """Pulls an image, or makes what stands in for it. Says whether there is one."""
    if engine.has(image) or engine.run("pull", "--quiet", image, check=False).returncode == 0:
        return True
    recipe = STAND_INS.get(image.rpartition(":")[0])
    if programs is None:
        raise Failure(f"{image} cannot be pulled; connect to its registry, or name a folder for --stand-ins")
    if recipe is None:
        return False
    provide_debian(engine, NEXT_DEBIAN)
    packages, files, after, entrypoint = recipe
    say(f"making a stand-in for {image}")
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            copy(programs / file, Path(folder, file))
        lines = [f"FROM {NEXT_DEBIAN}"]
        install = f"apt-get update && apt-get install --yes --no-install-recommends {' '.join(packages)}"
        lines += [f"RUN {' && '.join([install, *after])}"]
        lines += [f"COPY --chmod=0755 {file} /usr/local/bin/" for file in files]
        lines += [f'ENTRYPOINT ["{entrypoint}"]'] if entrypoint else []
        Path(folder, "Dockerfile").write_text("\n".join(lines) + "\n")
        engine.run("build", "--network", "host", "--tag", image, folder)
    return True


def provide_debian(engine, image=DEBIAN):
    """The base of others. Where it cannot be pulled, it is what debootstrap makes of Debian's packages."""
    if engine.has(image) or engine.run("pull", "--quiet", image, check=False).returncode == 0:
        return
    release = image.partition(":")[2].partition("-")[0]
    debootstrap = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    if not Path(debootstrap).exists():
        raise Failure(f"{image} can neither be pulled nor made; install debootstrap, and run this as root")
    say(f"making a stand-in for {image}")
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            [debootstrap, "--variant=minbase", "--include=ca-certificates", release, folder],
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise Failure(f"debootstrap: {(made.stderr + made.stdout)[-2000:]}")
        packed = subprocess.Popen(["tar", "--directory", folder, "--create", "."], stdout=subprocess.PIPE)
        engine.run("import", "-", image, stdin=packed.stdout)
        if packed.wait() != 0:
            raise Failure("the files that debootstrap made could not be packed")


def provide_rust(engine):
    """What the stages that compile begin with. Where it cannot be pulled, it is this machine's Rust of the same release."""
    image, release = re.search(r"^FROM (rust:([\d.]+)\S*) ", (ROOT / "Dockerfile").read_text(), re.M).groups()
    if engine.has(image) or engine.run("pull", "--quiet", image, check=False).returncode == 0:
        return
    version, sysroot = (
        subprocess.run(["rustc", *asked], capture_output=True, text=True, check=True).stdout.strip()
        for asked in (["--version"], ["--print", "sysroot"])
    )
    if version.split()[1] != release:
        raise Failure(f"{image} cannot be pulled, and this machine has {version}; install Rust {release}, or name --binaries")
    provide_debian(engine)
    say(f"making a stand-in for {image}")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "Dockerfile")
        recipe.write_text(
            f"FROM {DEBIAN}\n"
            "RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev\n"
            "COPY bin/cargo bin/rustc /usr/local/rust/bin/\n"
            "COPY lib /usr/local/rust/lib/\n"
            "ENV PATH=/usr/local/rust/bin:$PATH CARGO_HOME=/usr/local/cargo\n"
        )
        engine.run("build", "--network", "host", "--file", str(recipe), "--tag", image, sysroot)
