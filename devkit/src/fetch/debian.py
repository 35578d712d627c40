"""Lays out the programs and libraries of pinned Debian packages, each checked by its hash.

Arguments: the file with the pins, the architecture, an existing folder for the packages, a folder
to be made, and the mirrors in order. What apt would use comes after the mirrors.
"""

import hashlib
import io
import os
import posixpath
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request

APT_HELPER = "/usr/lib/apt/apt-helper"
# In seconds, for each step of a download.
PATIENCE = 60
# In bytes; no package that is pinned comes near it.
LARGEST = 64 * 1024 * 1024

WRAPPER = """#!/bin/sh
home=${0%%/*}/..
LD_LIBRARY_PATH=$home/lib
export LD_LIBRARY_PATH
exec "$home/libexec/%s" "$@"
"""


class Package:
    def __init__(self, sha256, path, folder):
        self.sha256 = sha256
        self.path = path
        self.file = os.path.join(folder, posixpath.basename(path))

    def accept(self, content):
        if hashlib.sha256(content).hexdigest() != self.sha256:
            return False
        with open(self.file, "wb") as file:
            file.write(content)
        return True


def download(packages, mirror, problems):
    """Gets what it can from a mirror; returns the rest."""
    missing = []
    for at, package in enumerate(packages):
        url = f"{mirror.rstrip('/')}/{package.path}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                accepted = package.accept(answer.read(LARGEST))
        except urllib.error.HTTPError as error:
            problems.append(f"{url}: {error}")
            missing.append(package)
        except (OSError, ValueError) as error:
            # The others would fare no better, each after the same patience.
            problems.append(f"{url}: {error}")
            return missing + packages[at:]
        else:
            if not accepted:
                problems.append(f"{url}: not the file that is pinned")
                missing.append(package)
    return missing


def ask_apt(packages, problems):
    """Gets what it can from where apt gets its packages, by apt's settings; returns the rest."""
    try:
        targets = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
            capture_output=True, text=True, check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        problems.append(f"apt-get: {error}")
        return packages
    # What is named like Debian's own archive most likely is its mirror.
    mirrors = set(targets.stdout.split())
    for mirror in sorted(mirrors, key=lambda uri: (not uri.rstrip("/").endswith("/debian"), uri)):
        command = [APT_HELPER, "-qq", "download-file"]
        for package in packages:
            url = f"{mirror.rstrip('/')}/{package.path}"
            command += [url, package.file + ".apt", f"SHA256:{package.sha256}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            problems.append(f"apt-helper: {error}")
            return packages
        if done.returncode != 0:
            problems += done.stderr.splitlines()[:1]
        missing = []
        for package in packages:
            try:
                with open(package.file + ".apt", "rb") as file:
                    accepted = package.accept(file.read(LARGEST))
            except OSError:
                accepted = False
            if not accepted:
                missing.append(package)
        packages = missing
        if not packages:
            break
    return packages


def contents(package):
    """The files of a package, as an open tar archive."""
    with open(package, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            sys.exit(f"{package} is not a Debian package")
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                data = file.read(size)
                break
            file.seek(size + size % 2, os.SEEK_CUR)
        else:
            sys.exit(f"{package} has no files")
    try:
        return tarfile.open(fileobj=io.BytesIO(data))
    except tarfile.ReadError:
        # A Python without lzma.
        command = ["dpkg-deb", "--fsys-tarfile", package]
        try:
            unpacked = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        except OSError as error:
            sys.exit(f"cannot unpack without Python's lzma module or dpkg-deb: {error}")
        return tarfile.open(fileobj=io.BytesIO(unpacked.stdout))


def write(path, content):
    with open(path, "xb") as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o755)
        os.fsync(file.fileno())


def lay_out(package, target):
    """Programs go to libexec, with a wrapper of the same name in bin, libraries to lib."""
    with contents(package) as files:
        for member in files:
            folder, name = posixpath.split(posixpath.normpath(member.name))
            is_library = posixpath.dirname(folder) in ("lib", "usr/lib") and ".so" in name
            if folder in ("usr/bin", "usr/sbin") and member.isreg():
                write(os.path.join(target, "libexec", name), files.extractfile(member).read())
                write(os.path.join(target, "bin", name), (WRAPPER % name).encode())
            elif is_library and member.isreg():
                write(os.path.join(target, "lib", name), files.extractfile(member).read())
            elif is_library and member.issym() and "/" not in member.linkname:
                os.symlink(member.linkname, os.path.join(target, "lib", name))


def check(target):
    """Has the loader look for what each program needs."""
    libexec = os.path.join(target, "libexec")
    for name in sorted(os.listdir(libexec)):
        environment = {
            **os.environ,
            "LD_TRACE_LOADED_OBJECTS": "1",
            "LD_LIBRARY_PATH": os.path.join(target, "lib"),
        }
        try:
            done = subprocess.run(
                [os.path.join(libexec, name)], env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        except OSError as error:
            sys.exit(f"{name} cannot be run on this system: {error}")
        if done.returncode != 0 or "not found" in done.stdout:
            sys.exit(f"{name} cannot be run on this system:\n{done.stdout}")


def main(pins, architecture, folder, target, *mirrors):
    packages = []
    with open(pins) as file:
        for line in file:
            if line.rstrip().endswith(f"_{architecture}.deb"):
                packages.append(Package(*line.split(), folder))

    missing, problems = packages, []
    for mirror in mirrors:
        if missing:
            missing = download(missing, mirror, problems)
    if missing:
        missing = ask_apt(missing, problems)
    if missing:
        print(*problems, sep="\n")
        names = " ".join(posixpath.basename(package.path) for package in missing)
        sys.exit(f"not to be had: {names}")

    for name in ("bin", "lib", "libexec"):
        os.makedirs(os.path.join(target, name))
    for package in packages:
        lay_out(package.file, target)
    check(target)


main(*sys.argv[1:])
