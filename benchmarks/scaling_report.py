"""The part of docs/benchmarks.md about growth: points of `mhe bench scaling` and `protocols`, and headline runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.markdown import table
from benchmarks.published import PUBLISHED
from models.training import INVERSE

Record = Mapping[str, Any]

INTRODUCTION = """
## Many parties on one machine

Co-hosted: all parties are threads of one process on one machine, each with its own secret, randomness, shares and rows,
and with the same messages over the same tree as apart; public keys are held once. Nothing protects them from each
other. Wall time here is that of all parties' work together. *Modelled* is the wall time with a machine for each, from
every party's CPU seconds and a link of {link} (rate of a line, delay of a message), a model that
`tests/network/test_modelled.py` compares with an emulated network. CPU seconds count what is computed once for all as
if each party had done it.

"""

HEADLINE_COLUMNS = (
    "job", "parties", "rows", "features", "AUC", "scikit-learn", "set-up s", "training s", "release s", "CPU s / party",
    "MB sent / party", "rounds", "modelled set-up s", "modelled training s", "peak GiB of all",
)  # fmt: skip

SERIES: Mapping[str, tuple[str, str]] = {
    "parties": ("Parties, with {rows} rows each", "parties"),
    "strong": ("Parties, sharing the same rows", "parties"),
    "rows": ("Rows of a party", "rows / party"),
    "features": ("Features", "features"),
    "hidden": ("Hidden units of a perceptron", "hidden units"),
    "batch": ("Rows of a batch, perceptron", "batch"),
    "chosen": ("Parties of a perceptron, refresh points chosen by the plan", "parties"),
    "everywhere": ("Parties of a perceptron that refreshes everywhere", "parties"),
    "threads": ("Threads of a party that has the machine to itself", "threads"),
}
"""Title, and what varies."""

SERIES_COLUMNS = (
    "set-up CPU s / party", "training CPU s / party", "at most", "training s here", "modelled set-up s",
    "modelled training s", "MB sent / party", "rounds", "peak MiB of all",
)  # fmt: skip

PROTOCOL_NAMES: Mapping[str, str] = {
    "public_key": "public key",
    "relin_key": "relinearisation key",
    "rotation_keys": "one rotation key",
    "sum": "sum",
    "refresh": "refresh",
    "decryption": "decryption",
}


def sections(
    headlines: Sequence[Record], scaling: Record | None, protocols: Record | None, jobs: Sequence[Record] = ()
) -> str:
    """Markdown of everything that is recorded; empty where nothing is. jobs: runs of `mhe train`."""
    text = ""
    links = [record["link"] for record in headlines] + ([protocols["link"]] if protocols else [])
    points = scaling["points"] if scaling else []
    links += [point["link"] for point in points if "link" in point]
    if links:
        text += INTRODUCTION.format(link=" and ".join(sorted(set(links))))
    if headlines:
        text += headline_table(headlines)
        text += "".join(f"\n`{record['command']}`\n" for record in headlines)
    for series in SERIES:
        own = [point for point in points if point["series"] == series]
        if own:
            text += f"\n### {SERIES[series][0].format(rows=_rows(own[0]))}\n\n"
            text += f"![{SERIES[series][0].split(',')[0]}](plots/{series}.svg)\n\n{series_table(series, own)}"
    if protocols:
        text += "\n### Protocols\n\n![Protocols](plots/protocols.svg)\n\n" + protocol_table(protocols)
    if headlines or points:
        text += "\n### Beside published figures\n\n" + published_table([*headlines, *jobs], points)
    return text


def headline_table(records: Sequence[Record]) -> str:
    """One row for each whole co-hosted run."""
    rows = []
    for record in records:
        r, stages = record["result"], record["stages"]
        exact = r["exact"] or {}
        rows.append(
            (
                record["job"],
                str(r["parties"]),
                f"{r['rows_train']:,}",
                str(r["features"]),
                _figure(r.get("auc")),
                _figure(exact.get("auc")),
                f"{r['seconds']['setup']:.1f}",
                f"{wall_training(record):.1f}",
                f"{r['seconds']['release']:.1f}",
                f"{sum(s['cpu_seconds']['mean'] for s in stages.values()):.2f}",
                f"{sum(s['bytes_sent']['mean'] for s in stages.values()) / 1e6:.1f}",
                f"{sum(s['rounds'] for s in stages.values()):.0f}",
                f"{stages['setup']['modelled_seconds']:.1f}",
                f"{stages['training']['modelled_seconds']:.1f}",
                f"{record['process']['peak_rss_mib'] / 1024:.1f}",
            )
        )
    return table(HEADLINE_COLUMNS, rows)


def series_table(series: str, points: Sequence[Record]) -> str:
    """One row for each point, in ascending order of what varies."""
    rows = []
    for point in sorted(points, key=lambda p: int(p["x"])):
        setup, training = point["stages"]["setup"], point["stages"]["training"]
        sent = training.get("bytes_sent")
        rows.append(
            (
                str(point["x"]),
                f"{setup['cpu_seconds']['mean']:.2f}",
                f"{training['cpu_seconds']['mean']:.2f}",
                f"{training['cpu_seconds']['max']:.2f}",
                f"{wall_training(point):.2f}",
                _seconds(setup.get("modelled_seconds")),
                _seconds(training.get("modelled_seconds")),
                "-" if sent is None else f"{sent['mean'] / 1e6:.1f}",
                "-" if sent is None else f"{training['rounds']:.0f}",
                str(point["process"]["peak_rss_mib"]),
            )
        )
    return table((SERIES[series][1], *SERIES_COLUMNS), rows)


def protocol_table(record: Record) -> str:
    """CPU milliseconds of a party, kilobytes sent and modelled milliseconds, by protocol and number of parties."""
    columns = ("parties", *(f"{name}: CPU ms, MB sent, modelled s" for name in PROTOCOL_NAMES.values()))
    rows = []
    for point in record["points"]:
        cells = (point["protocols"][phase] for phase in PROTOCOL_NAMES)
        shown = (
            f"{1e3 * p['cpu_seconds']['mean']:.0f}, {p['bytes_sent']['mean'] / 1e6:.1f}, {p['modelled_seconds']:.2f}"
            for p in cells
        )
        rows.append((str(point["parties"]), *shown))
    return table(columns, rows)


def published_table(runs: Sequence[Record], points: Sequence[Record]) -> str:
    """The papers' figures, with ours where the same task is recorded."""
    rows = []
    for each in PUBLISHED:
        same = (r for r in runs if r["job"] == each.job and str(r["result"]["parties"]) == each.parties)
        ours = next(map(_ours, same), None)
        if ours is None:
            ours = _growth([point for point in points if point["series"] == each.job])
        rows.append((each.work, each.task, each.parties, each.hardware, each.figure, ours or "not recorded yet"))
    return table(("work", "task", "parties", "hardware", "published", "here"), rows)


def wall_training(record: Record) -> float:
    """Wall seconds of all parties' iterations on this machine, with what prepares them."""
    seconds = record["result"]["seconds"]
    return float(seconds["training"] + seconds.get(INVERSE, 0.0))


def _ours(record: Record) -> str:
    result, seconds = record["result"], record["result"]["seconds"]
    where = "co-hosted" if "process" in record else f"on {record['environment']['cores']} cores"
    reached = f", {100 * result['accuracy']:.1f} %" if "accuracy" in result else ""
    return (
        f"training {wall_training(record):.0f} s, with set-up {wall_training(record) + seconds['setup']:.0f} s, "
        f"{result['parties']} parties {where}{reached}"
    )


def _growth(points: Sequence[Record]) -> str | None:
    """Of a party's CPU seconds and the modelled wall time, between the ends that the published figure names."""
    ends = {"parties": (3, 48), "features": (8, 128)}
    found = {int(p["x"]): p["stages"]["training"] for p in points}
    if not points:
        return None
    low, high = ends[points[0]["series"]]
    if low not in found or high not in found:
        return None
    cpu = found[high]["cpu_seconds"]["mean"] / found[low]["cpu_seconds"]["mean"]
    wall = found[high]["modelled_seconds"] / found[low]["modelled_seconds"]
    return f"CPU of a party {cpu:.2f} times, modelled wall time {wall:.2f} times"


def _rows(point: Record) -> str:
    return f"{point['result']['rows_train'] // point['result']['parties']:,}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
