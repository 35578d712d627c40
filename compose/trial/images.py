"""Images where none can be pulled, or where compiling ours would take too long.

Of ours, only the stages that compile may be left out: everything else of the Dockerfile is built as it stands. Of others, the
programs are real, of Debian or of a folder that is named; the release may be another than the one in the stack. All that is
for an engine that ends with the trial: elsewhere, somebody would take such an image for the one that its name says.
"""

import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from engine import Failure, say

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = "debian:bookworm-20250811-slim"
# Whose packages are nearest to what the stacks pin.
NEXT_DEBIAN = "debian:trixie-20250811-slim"

# What each image of the stacks is replaced with: packages of the next Debian, files of the folder of programs, what is done
# after that, and how it begins.
ETCD = "for program in etcd etcdctl etcdutl; do ln -s /usr/bin/$program /usr/local/bin/; done"
STAND_INS = {
    "gcr.io/etcd-development/etcd": (["etcd-server", "etcd-client"], [], [ETCD], None),
    "nats": (["busybox-static"], ["nats-server"], [], None),
    "eclipse-mosquitto": (["mosquitto", "mosquitto-clients"], [], [], None),
    "prom/prometheus": (["prometheus", "wget"], [], [], "/usr/bin/prometheus"),
}


# What the trial's images say of themselves: names as in services.yaml, values that are nobody else's.
ORIGIN = {"REVISION": f"trial-{os.getpid()}", "CREATED": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
ARGUMENTS = [word for name, value in ORIGIN.items() for word in ("--build-arg", f"{name}={value}")]


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
            stand_in(engine, image, "programs that were compiled before")
            engine.run("build", "--network", "host", *ARGUMENTS, "--target", target, "--tag", image, folder)


def compile_own(engine, targets):
    """The images of this repository, all stages of them, each from what it begins with in the Dockerfile or a stand-in for it."""
    provide_rust(engine)
    provide_debian(engine)
    for target, image in targets.items():
        say(f"building {image}, which compiles it")
        engine.run("build", "--network", "host", *ARGUMENTS, "--target", target, "--tag", image, str(ROOT))


def labelled(engine, targets):
    """Holds images against what the build was told, and says how large they are."""
    for image in sorted(targets.values()):
        name, _, version = image.partition(":")
        told = json.loads(engine.out("image", "inspect", image))[0]
        labels = {key.rpartition(".")[2]: value for key, value in (told["Config"].get("Labels") or {}).items()}
        wanted = {"title": name, "version": version, "revision": ORIGIN["REVISION"], "created": ORIGIN["CREATED"]}
        wrong = {key: labels.get(key) for key, value in wanted.items() if labels.get(key) != value}
        missing = [key for key in ("description", "licenses", "source", "vendor") if not labels.get(key)]
        if wrong or missing:
            raise Failure(f"{image}: its labels say {wrong} instead of {wanted}, and lack {missing}")
        say(f"{image}: {told['Size'] / 1e6:.0f} MB")


def stand_in(engine, image, what):
    """Notes that an image will not be what its name says."""
    if not engine.is_own:
        remedy = "connect to its registry, or have stand-ins in an engine that ends with the trial: --own-engine"
        raise Failure(f"{image} would be made of {what}, and be left on this engine; {remedy}")
    say(f"making {image} of {what}")
    engine.stood_in[image] = what


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
    packages, files, after, entrypoint = recipe
    made_of = [f"a {file} of --stand-ins" for file in files] + [f"{release(NEXT_DEBIAN)}'s {package}" for package in packages]
    stand_in(engine, image, " and ".join(made_of))
    provide_debian(engine, NEXT_DEBIAN)
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
    stand_in(engine, image, f"debootstrap's {release(image)}")
    debootstrap = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    if not Path(debootstrap).exists():
        raise Failure(f"{image} can neither be pulled nor made; install debootstrap, and run this as root")
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            [debootstrap, "--variant=minbase", "--include=ca-certificates", release(image), folder],
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise Failure(f"debootstrap: {(made.stderr + made.stdout)[-2000:]}")
        packed = subprocess.Popen(["tar", "--directory", folder, "--create", "."], stdout=subprocess.PIPE)
        engine.run("import", "-", image, stdin=packed.stdout)
        if packed.wait() != 0:
            raise Failure("the files that debootstrap made could not be packed")


def release(image):
    """The name of a Debian by the tag of its image."""
    return image.partition(":")[2].partition("-")[0]


def provide_rust(engine):
    """What the stages that compile begin with. Where it cannot be pulled, it is this machine's Rust of the same release."""
    image, wanted = re.search(r"^FROM (rust:([\d.]+)\S*) ", (ROOT / "Dockerfile").read_text(), re.M).groups()
    if engine.has(image) or engine.run("pull", "--quiet", image, check=False).returncode == 0:
        return
    version, sysroot = rustc("--version"), Path(rustc("--print", "sysroot"))
    if version.split()[1:2] != [wanted]:
        raise Failure(f"{image} cannot be pulled, and this machine has {version}; install Rust {wanted}, or name --binaries")
    # Of a system's own Rust, everything else in /usr/lib would come with it.
    if sysroot == Path("/usr") or not (sysroot / "bin/cargo").is_file():
        raise Failure(f"{image} cannot be pulled, and {sysroot} is no folder of Rust alone; install it by rustup, or name --binaries")
    stand_in(engine, image, f"this machine's {version}")
    provide_debian(engine)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "Dockerfile")
        recipe.write_text(
            f"FROM {DEBIAN}\n"
            "RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev\n"
            "COPY bin/cargo bin/rustc /usr/local/rust/bin/\n"
            "COPY lib /usr/local/rust/lib/\n"
            "ENV PATH=/usr/local/rust/bin:$PATH CARGO_HOME=/usr/local/cargo\n"
        )
        engine.run("build", "--network", "host", "--file", str(recipe), "--tag", image, str(sysroot))
        # A network may have an authority of its own, which this machine trusts.
        trusted = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
        if trusted.is_file():
            shutil.copy2(trusted, Path(folder, "trusted.crt"))
            recipe.write_text(f"FROM {image}\nCOPY trusted.crt /etc/ssl/certs/ca-certificates.crt\n")
            engine.run("build", "--tag", image, folder)


def rustc(*asked):
    """What this machine's Rust says of itself."""
    try:
        done = subprocess.run(["rustc", *asked], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failure("the image of Rust cannot be pulled, and this machine has no rustc; install Rust, or name --binaries") from None
    if done.returncode != 0:
        raise Failure(f"rustc {' '.join(asked)}: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()
