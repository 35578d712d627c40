#!/usr/bin/env python3
"""Checks the stacks, rules and dashboards without a container engine.

    python3 compose/check.py

Every stack is rendered by Compose itself (`docker compose` or `docker-compose`, whichever is there) and every service
of it is held against what a service here has to have. Every metric and label in rules, alerts and dashboards has to be
one that the sources register. Rules and their tests are run by promtool if it is there.

Standard library only; `docker-compose` answers in YAML, for which it brings PyYAML to the system's Python.
Exit codes: 0 all is well, 1 something is wrong, 2 something that is needed to look is missing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STACKS = ["nats", "mqtt", "mqtt-upstream", "zenoh", "all"]
CRATES = ["control", "auth-callout", "mqtt-broker", "zenoh-plugin", "registry"]

# Services that end by themselves, or that a person runs: no health check, no restart.
ONCE = {"bootstrap", "bulkhead", "devices"}
# What tenants need, by container port. Everything else that is published has to be on loopback.
FOR_TENANTS = {4222, 7447, 7448, 8443, 8883, 8884}
# Who has a way out of the stack, and why: tenants come in there and issuers' keys are fetched, a person's commands, a port on
# loopback, an Alertmanager. Everybody else is on networks that lead nowhere.
REACHES_OUT = {"nats", "callout", "callout-2", "mqtt", "zenohd", "registry", "bulkhead", "grafana", "prometheus"}
# Images of this repository, which the Dockerfile builds; all others come with a tag of digits.
OWN = re.compile(r"bulkhead(-[a-z]+)?:\d+\.\d+\.\d+")
PINNED = re.compile(r"[^:@]+(:v?\d+\.\d+\.\d+[\w.-]*)(@sha256:[0-9a-f]{64})?")
SECRET = re.compile(r"pass|secret|token|key|credential|seed", re.I)
# Metrics that are not Bulkhead's own, with their labels where a query names any.
FOREIGN = {
    "up": set(),
    "etcd_mvcc_db_total_size_in_bytes": set(),
    "etcd_server_quota_backend_bytes": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
}
# Put on every series by Prometheus itself.
TARGET_LABELS = {"instance", "job"}

problems = []


def wrong(where, what):
    problems.append(f"{where}: {what}")


def missing_tool(what):
    print(f"check: {what}", file=sys.stderr)
    sys.exit(2)


# --- Compose


def render(stack):
    """The stack as Compose understands it."""
    folder = HERE / stack
    tries = []
    if shutil.which("docker"):
        tries.append((["docker", "compose", "--profile", "tools", "config", "--format", "json"], json.loads))
    if shutil.which("docker-compose"):
        tries.append((["docker-compose", "--profile", "tools", "config"], read_yaml))
    said = "neither `docker compose` nor `docker-compose` is there"
    for command, read in tries:
        # Relative to nothing but the file: what the caller has in its environment changes nothing.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("BULKHEAD", "COMPOSE"))}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return read(done.stdout)
        said = done.stderr.strip()
        if "is not a docker command" in said or "unknown flag" in said or "unknown shorthand" in said:
            continue
        wrong(f"{stack}/compose.yaml", said)
        return {"services": {}}
    missing_tool(f"Compose cannot be run: {said}; install Docker's compose plugin, or Debian's docker-compose")


def read_yaml(text):
    try:
        import yaml
    except ImportError:
        script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
        done = subprocess.run(["/usr/bin/python3", "-c", script], input=text, capture_output=True, text=True)
        if done.returncode != 0:
            missing_tool("docker-compose answers in YAML; install PyYAML (Debian: python3-yaml)")
        return json.loads(done.stdout)
    return yaml.safe_load(text)


def pairs(environment):
    if isinstance(environment, dict):
        return environment.items()
    return (entry.partition("=")[::2] for entry in environment or [])


def looks_secret(text):
    """A long run of characters without words in it, or a JSON Web Token, or a PEM or NATS key."""
    if "-----BEGIN" in text or re.search(r"\bey[A-Za-z0-9_-]{20,}\.", text) or re.search(r"\bS[AUXOC][A-Z2-7]{50,}", text):
        return True
    return any(not re.search(r"[/.:=]", word) and re.search(r"\d", word) for word in re.findall(r"[A-Za-z0-9+_-]{24,}", text))


def check_environment(where, service):
    for name, value in pairs(service.get("environment")):
        value = str(value or "")
        # A file's name may stand there; what is in the file may not.
        if SECRET.search(name) and not value.startswith("/"):
            wrong(where, f"environment {name} is to hold a secret; name a file instead")
        if looks_secret(value):
            wrong(where, f"environment {name} looks like a secret")
    if service.get("env_file"):
        wrong(where, "env_file puts a file into the environment; mount it instead")
    for part in ("command", "entrypoint"):
        words = service.get(part) or []
        words = words if isinstance(words, list) else words.split()
        for before, word in zip([""] + words, words):
            flag, _, value = word.partition("=")
            given = value if flag.startswith("-") and value else word if before.startswith("-") else ""
            if looks_secret(word):
                wrong(where, f"{part} looks as if it held a secret")
            if SECRET.search(flag if value else before) and given and not given.startswith(("/", "-")):
                wrong(where, f"{part} gives a secret behind {flag if value else before}; name a file instead")


def check_ports(where, service):
    for port in service.get("ports", []):
        if not isinstance(port, dict):
            found = re.fullmatch(r"(?:(\[?[0-9a-f.:]+\]?):)?(\d+):(\d+)(?:/\w+)?", str(port))
            if not found:
                wrong(where, f"port {port} cannot be read")
                continue
            port = {"host_ip": found[1], "target": int(found[3])}
        if port.get("host_ip") not in ("127.0.0.1", "::1") and int(port["target"]) not in FOR_TENANTS:
            wrong(where, f"port {port['target']} is published to others, and no tenant needs it")


def check_mounts(where, service, volumes):
    for mount in service.get("volumes", []):
        if isinstance(mount, str):
            source, target, *options = mount.split(":")
            read_only = "ro" in options
            mount = {"source": source, "target": target, "read_only": read_only, "type": "volume" if source in volumes else "bind"}
        source, name = str(mount.get("source", "")), where.split("/")[-1]
        if "docker.sock" in source or "containerd" in source or "podman" in source:
            wrong(where, "has the container engine's socket")
        if mount["type"] == "bind" and not mount.get("read_only"):
            wrong(where, f"may write to {source} of the host")
        if mount["type"] == "bind" and not Path(source).resolve().is_relative_to(HERE):
            wrong(where, f"mounts {source}, which is no part of the stacks")
        if mount["type"] == "bind" and not Path(source).exists():
            wrong(where, f"mounts {source}, which is not there")
        if mount["type"] == "volume" and source not in volumes:
            wrong(where, f"mounts the volume {source}, which is not declared")
        if source == "keys-offline" and name != "bootstrap":
            wrong(where, "sees keys-offline, which is for the bootstrap step alone")
        if name != "bootstrap" and mount["type"] == "volume" and not (mount.get("volume") or {}).get("nocopy"):
            wrong(where, f"may fill the volume {source} from its image; say nocopy")


def check_service(stack, name, service, rendered):
    where = f"{stack}/{name}"
    user = str(service.get("user", ""))
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        wrong(where, "runs as root, or as a user that the image chooses; set user")
    if not service.get("read_only"):
        wrong(where, "may write to its root file system; set read_only")
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        wrong(where, "has capabilities; set cap_drop: [ALL] and no cap_add")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        wrong(where, "may gain privileges; set security_opt: [no-new-privileges:true]")
    if service.get("privileged") or service.get("pid") or service.get("ipc") or service.get("network_mode") == "host":
        wrong(where, "shares a name space with the host")
    if not service.get("mem_limit"):
        wrong(where, "has no mem_limit")
    if not service.get("pids_limit"):
        wrong(where, "has no pids_limit")
    if not ((service.get("logging") or {}).get("options") or {}).get("max-size"):
        wrong(where, "has a log that grows without end; set logging.options.max-size")
    if name not in ONCE:
        if service.get("restart") not in ("unless-stopped", "always"):
            wrong(where, "is not started again when it ends; set restart")
        if not (service.get("healthcheck") or {}).get("test"):
            wrong(where, "has no healthcheck")
    image = str(service.get("image", ""))
    if not (OWN.fullmatch(image) if service.get("build") or image.startswith("bulkhead") else PINNED.fullmatch(image)):
        wrong(where, f"image {image or '(none)'} is not pinned to a release")
    build = service.get("build")
    if build and set(build.get("args") or {}) != {"REVISION", "CREATED"}:
        wrong(where, "builds an image whose labels do not say from what and when; give REVISION and CREATED as args")
    networks = service.get("networks") or {}
    if not networks and service.get("network_mode") not in ("none", "service:registry"):
        wrong(where, "is on the default network; name its networks, or network_mode: none")
    declared = rendered.get("networks") or {}
    outward = [network for network in networks if not (declared.get(network) or {}).get("internal")]
    if outward and name not in REACHES_OUT:
        wrong(where, f"has a way out by {', '.join(outward)}; put it on back alone")
    # An alert that reaches nobody wakes nobody.
    if name == "prometheus" and outward != ["alerting"]:
        wrong(where, "reaches an Alertmanager by the network alerting and nothing else; put it on back and alerting")
    if "alerting" in networks and name != "prometheus":
        wrong(where, "is on alerting, which is for Prometheus and an Alertmanager")
    if name != "bootstrap":
        after = service.get("depends_on") or {}
        if not isinstance(after, dict) or "bootstrap" not in after:
            wrong(where, "may start before its keys are made; let it depend on bootstrap")
        for other, how in after.items() if isinstance(after, dict) else []:
            expected = "service_completed_successfully" if other == "bootstrap" else "service_healthy"
            if how.get("condition") != expected:
                wrong(where, f"waits for {other} without {expected}")
    check_environment(where, service)
    check_ports(where, service)
    check_mounts(where, service, rendered.get("volumes") or {})


def check_together(stack, services):
    """What no service shows alone."""
    paths = {}
    for name, service in services.items():
        path = dict(pairs(service.get("environment"))).get("BULKHEAD__AUDIT__PATH")
        # Each log has one writer, which keeps it locked.
        if path in paths:
            wrong(f"{stack}/{name}", f"writes to {path}, which is the audit log of {paths[path]}; name another")
        if path:
            paths[path] = name
    if "nats" not in services:
        return
    # nats-server lets nobody in without an answer: while one is replaced, another has to give it.
    one, two = services.get("callout"), services.get("callout-2")
    if not one or not two:
        wrong(stack, "has not two callouts, so nobody gets in while one is replaced; add callout-2")
        return
    for part in ("image", "command", "volumes", "networks", "depends_on"):
        if one.get(part) != two.get(part):
            wrong(f"{stack}/callout-2", f"differs from callout in {part}, so it would not answer the same")


def check_stack(stack):
    rendered = render(stack)
    services = rendered["services"]
    for name, service in services.items():
        check_service(stack, name, service, rendered)
    for name in {"bootstrap", "etcd", "registry", "prometheus", "grafana", "bulkhead"} - services.keys():
        wrong(stack, f"has no service {name}")
    if services and not ((rendered.get("networks") or {}).get("back") or {}).get("internal"):
        wrong(stack, "its network back is not internal")
    command = " ".join((services.get("etcd") or {}).get("command") or [])
    for flag in ("--auto-compaction-retention=1h", "--quota-backend-bytes=8589934592", "--client-cert-auth"):
        if services and flag not in command:
            wrong(f"{stack}/etcd", f"is started without {flag}")
    check_together(stack, services)
    # What is scraped has to be a service of this stack, and what has an admin port has to be scraped.
    scraped = set()
    for file in (HERE / stack / "targets").glob("*.yml"):
        for host in re.findall(r"([a-z0-9-]+):9180", file.read_text()):
            scraped.add(host)
            if host not in services:
                wrong(f"{stack}/targets/{file.name}", f"names {host}, which is no service")
    for name, service in services.items():
        if "ready" in ((service.get("healthcheck") or {}).get("test") or []) and name not in scraped:
            wrong(f"{stack}/{name}", "is in no file of targets, so Prometheus does not see it")
    return len(services)


# --- Metrics


def registered():
    """Metrics of the sources, each with its labels: a name, a help text, and a list of labels or one of them."""
    found = {}
    literal = r'"((?:[^"\\]|\\.)*)"'
    for crate in CRATES:
        for file in (ROOT / crate / "src").rglob("*.rs"):
            text = file.read_text().split("#[cfg(test)]")[0]
            for match in re.finditer(r'"(bulkhead_[a-z0-9_]+)"\s*,\s*' + literal, text):
                rest = text[match.end() : match.end() + 200]
                labels = re.match(r"\s*,?\s*\)?\s*(?:\.buckets\([^;]*?\)\s*)?,?\s*\)?\s*,?\s*(?:&\[([^\]]*)\]|" + literal + r"\s*,?\s*\))", rest)
                names = re.findall(r'"(\w+)"', labels[1]) if labels and labels[1] else [labels[2]] if labels and labels[2] else []
                found[match[1]] = set(names)
                if match[1].endswith("_seconds") and "HistogramOpts" in text[max(0, match.start() - 120) : match.start()]:
                    found.pop(match[1])
                    for suffix, more in (("_bucket", {"le"}), ("_count", set()), ("_sum", set())):
                        found[match[1] + suffix] = set(names) | more
    return found


KEYWORDS = set("by without on ignoring group_left group_right and or unless offset bool vector time inf nan".split())


def check_query(where, query, known):
    """Every name in a query has to be a metric, and every label that stands by one has to be its own."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    names = set()
    ungrouped = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", plain)
    for match in re.finditer(r"(?<![\w:$.])([a-zA-Z_][\w:]*)\s*(\{[^}]*\})?", ungrouped):
        name, selector = match[1], match[2] or ""
        # What stands before a parenthesis is a function.
        if name in KEYWORDS or ungrouped[match.end() :].lstrip().startswith("("):
            continue
        if name not in known:
            wrong(where, f"{name} is no metric that anything registers")
            continue
        names.add(name)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            if label not in known[name] | TARGET_LABELS:
                wrong(where, f"{name} has no label {label}")
    grouped = {label.strip() for part in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", plain) for label in part.split(",") if label.strip()}
    made = set(re.findall(r'label_replace\(.*?,\s*"(\w+)"', query))
    for label in grouped - TARGET_LABELS - made:
        if not any(label in known.get(name, ()) for name in names):
            wrong(where, f"groups by {label}, which none of {', '.join(sorted(names)) or 'its metrics'} has")
    if not names and "vector(" not in query:
        wrong(where, "asks for no metric")
    return names, grouped


def strings(text):
    """The expressions of a rules file: `expr: …` in one line, quoted or not, or as a block."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        match = re.match(r"(\s*)(?:- )?expr:\s*(.*)$", line)
        if not match:
            continue
        value = match[2].strip()
        if value == "|":
            indent = len(match[1])
            block = []
            for more in lines[i + 1 :]:
                if more.strip() and len(more) - len(more.lstrip()) <= indent:
                    break
                block.append(more.strip())
            value = " ".join(block)
        elif value.startswith("'"):
            value = value[1:-1].replace("''", "'")
        yield i + 1, value


def recorded(known):
    """Recording rules are metrics too, with the labels that they group by."""
    text = (HERE / "prometheus/rules.yml").read_text()
    for name in re.findall(r"record:\s*(\S+)", text):
        after = text[text.index(name) :].split("- record:")[0]
        labels = {l.strip() for part in re.findall(r"\bby\s*\(([^)]*)\)", after) for l in part.split(",")} - {"le"}
        known[name] = labels | set(re.findall(r'label_replace\(.*?,\s*"(\w+)"', after))


def check_rules(known):
    count = 0
    for name in ("rules.yml", "alerts.yml"):
        for line, query in strings((HERE / "prometheus" / name).read_text()):
            check_query(f"prometheus/{name}:{line}", query, known)
            count += 1
    alerts = (HERE / "prometheus/alerts.yml").read_text()
    page = (ROOT / "docs/runbooks/alerts.md").read_text().lower()
    tests = "".join(file.read_text() for file in (HERE / "prometheus/tests").glob("*.yml"))
    for alert in re.findall(r"alert:\s*(\w+)", alerts):
        if f"#{alert.lower()}\n" not in alerts:
            wrong(f"alert {alert}", "has no runbook_url of its own")
        if not re.search(rf"^#+ {alert.lower()}$", page, re.M):
            wrong(f"alert {alert}", "is not explained in docs/runbooks/alerts.md")
        if not re.search(rf"alertname: {alert}\n\s*exp_alerts:\n", tests) or f"alertname: {alert}\n        exp_alerts: []" not in tests:
            wrong(f"alert {alert}", "has no test that it fires and one that it does not")
    for heading in re.findall(r"^## (bulkhead\w+)$", page, re.M):
        if heading not in alerts.lower():
            wrong("docs/runbooks/alerts.md", f"explains {heading}, which is no alert")
    return count


def check_dashboards(known):
    count, uids, shown = 0, set(), set()
    for file in sorted((HERE / "grafana/dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        if board["uid"] in uids:
            wrong(file.name, "has the uid of another dashboard")
        uids.add(board["uid"])
        variables = {v["name"] for v in board["templating"]["list"]}
        for variable in board["templating"]["list"]:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            if label not in known.get(metric, ()):
                wrong(file.name, f"variable {variable['name']}: {metric} has no label {label}")
        ids = [panel["id"] for panel in board["panels"]]
        if len(ids) != len(set(ids)):
            wrong(file.name, "has two panels of one id")
        for panel in board["panels"]:
            where = f"{file.name}: {panel['title']}"
            if panel["type"] != "row" and not panel["targets"]:
                wrong(where, "asks nothing")
            for target in panel.get("targets", []):
                names, grouped = check_query(where, target["expr"], known)
                shown |= names
                count += 1
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                    if label not in grouped | TARGET_LABELS and not any(label in known[name] for name in names):
                        wrong(where, f"names {label}, which the query does not have")
                for variable in re.findall(r"\$(\w+)", target["expr"]):
                    if variable not in variables and not variable.startswith("__"):
                        wrong(where, f"asks for the variable {variable}, which is not defined")
    # Read through a recording rule counts as read.
    rules = (HERE / "prometheus/rules.yml").read_text() + (HERE / "prometheus/alerts.yml").read_text()
    for name in sorted(known.keys() - shown):
        if name.startswith("bulkhead_") and not name.endswith(("_count", "_sum")) and name not in rules:
            wrong("grafana", f"{name} is on no dashboard and in no rule")
    return count


def promtool():
    program = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not program:
        print("check: promtool is not there, so rules were not run (Debian: prometheus; or name it in PROMTOOL)")
        return
    folder = HERE / "prometheus"
    for command in (
        ["check", "rules", "rules.yml", "alerts.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["test", "rules", *sorted(str(file.relative_to(folder)) for file in (folder / "tests").glob("*.yml"))],
    ):
        done = subprocess.run([program, *command], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            wrong(f"promtool {' '.join(command[:2])}", (done.stdout + done.stderr).strip())


def main():
    services = sum(check_stack(stack) for stack in STACKS)
    known = registered()
    if len(known) < 40:
        wrong("sources", f"only {len(known)} metrics were found; the way they are registered has changed")
    known |= FOREIGN
    recorded(known)
    rules = check_rules(known)
    queries = check_dashboards(known)
    promtool()
    for problem in problems:
        print(f"FAIL  {problem}")
    print(f"{len(STACKS)} stacks with {services} services, {rules} rules, {queries} queries of dashboards: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
