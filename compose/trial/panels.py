"""Whether each panel of the dashboards has something to show, asked of the stack's own Prometheus."""

import json
from pathlib import Path
from urllib.parse import quote

DASHBOARDS = Path(__file__).resolve().parents[1] / "grafana/dashboards"


def queries():
    """Every query of every dashboard, with variables as Grafana fills them in when all is chosen. A panel that shows 0 where
    there is nothing is asked for what there is: the 0 would be there in any case."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"]
                for variable in board["templating"]["list"]:
                    query = query.replace(f"${variable['name']}", ".*")
                yield f"{board['title']} / {panel['title']}", query.replace(" or vector(0)", "")


def ask(stack, query):
    """The series that Prometheus has for a query, each with its newest value."""
    url = f"http://127.0.0.1:9090/api/v1/query?query={quote(query, safe='')}"
    done = stack.compose("exec", "-T", "prometheus", "wget", "-q", "-O", "-", url, check=False)
    answer = json.loads(done.stdout) if done.stdout.startswith("{") else {"status": "error", "error": done.stderr.strip()}
    if answer["status"] != "success":
        raise ValueError(answer.get("error", "no answer"))
    return answer["data"]["result"]


def shown(stack):
    """The queries that have an answer, and those that have none."""
    full, empty = set(), set()
    for title, query in queries():
        # A quantile of nothing is not a number, and shows nothing.
        result = [series for series in ask(stack, query) if series["value"][1] != "NaN"]
        (full if result else empty).add((title, query))
    return full, empty


def down(stack):
    """Targets that Prometheus cannot scrape."""
    return [series["metric"].get("instance") for series in ask(stack, "up == 0")]
