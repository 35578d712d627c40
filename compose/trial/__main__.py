"""Tries the stacks: brings each up on a Docker engine, walks through its README, and takes it down again.

    python3 compose/trial [STACK…]                                    with Docker and a network, as a user would
    python3 compose/trial --own-engine --binaries DIR --stand-ins DIR  where there is neither

Each stack is tried under a project name of its own, with volumes of its own; the published ports have to be free.
Exit codes: 0 all is well, 1 something is not, 2 it could not be tried.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import images  # noqa: E402
from engine import Engine, Failure, OwnEngine, say  # noqa: E402
from stack import Stack, check  # noqa: E402
from walk import Walk  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(prog="compose/trial", description=__doc__.splitlines()[0])
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=f"of {', '.join(check.STACKS)}; all of them without")
    parser.add_argument("--own-engine", action="store_true", help="start a dockerd for this trial; wants root")
    parser.add_argument("--binaries", type=Path, help="compiled programs for our images, which else are compiled")
    parser.add_argument("--stand-ins", type=Path, help="nats-server, for images that cannot be pulled: the rest is of Debian")
    parser.add_argument("--python", help="a Python with the clients' packages; without it there are no devices")
    given = parser.parse_args()
    for stack in given.stacks:
        if stack not in check.STACKS:
            parser.error(f"there is no stack {stack}; there are {', '.join(check.STACKS)}")
    if (given.binaries or given.stand_ins) and not given.own_engine:
        parser.error("--binaries and --stand-ins make images that are not what they are called; add --own-engine, which ends with them")
    return given


def prepare(engine, stack, given, ready):
    """Makes sure of the stack's images."""
    pulled, built = stack.images()
    missing = set()
    for image in sorted(pulled - ready):
        if images.provide(engine, image, given.stand_ins):
            ready.add(image)
        else:
            missing.add(image)
    if missing:
        say(f"{stack.name}: without {', '.join(sorted(missing))}, which cannot be pulled")
    stack.without(missing)
    targets = {target: image for target, image in built.items() if image not in ready}
    if targets and given.binaries:
        images.provide_debian(engine)
        images.build_own(engine, targets, given.binaries)
    elif targets:
        images.compile_own(engine, targets)
    images.labelled(engine, targets)
    ready.update(targets.values())


def main():
    given = arguments()
    try:
        engine = OwnEngine() if given.own_engine else Engine.at_hand()
    except Failure as failure:
        say(failure)
        return 2
    full, empty, ready = set(), set(), set()
    try:
        for name in given.stacks or check.STACKS:
            stack = Stack(engine, name)
            prepare(engine, stack, given, ready)
            stack.down()
            walk = Walk(stack, given.python)
            try:
                shown, missing = walk.all()
                full |= shown
                empty |= missing
            finally:
                walk.end()
                stack.down()
    except Failure as failure:
        say(failure)
        return 1
    finally:
        engine.stop()
        for image, what in sorted(engine.stood_in.items()):
            say(f"{image} was made of {what}")
    # What is behind the front is only seen in one of the stacks, and so on.
    every = {"all", "mqtt-upstream"} <= set(given.stacks or check.STACKS)
    dark = sorted(empty - full) if given.python and every else []
    for title, query in dark:
        say(f"nothing was ever shown for {title}: {query}")
    say(f"{len(given.stacks or check.STACKS)} stacks tried, {len(full)} of {len(full | empty)} queries of dashboards answered")
    return 1 if dark else 0


if __name__ == "__main__":
    sys.exit(main())
