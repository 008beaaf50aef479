"""Draws a patient's recorded history, simulated futures and what really happened, from `ehr-infer generate --json`.

Usage: ehr-infer generate RUN/latest --data DATASET --patient 7 --samples 12 --json | plot_futures.py OUT.svg
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKS = {  # what is drawn: marker, size, colour
    "outpatient visit": ("o", 16, "#9aa5b1"),
    "hospital stay": ("s", 52, "#f28e2b"),
    "first diagnosis": ("v", 30, "#d1495b"),
    "death": ("X", 90, "#000000"),
}
ADMISSIONS = ("VISIT//IN", "VISIT//IP", "VISIT//ERIP")


def lane(ax, y, events, known):
    """One row: visits on the line, diagnoses told for the first time above it.  known: codes told before; grows."""
    found = {name: [] for name in MARKS}
    for e in events:
        kind, years = e["kind"].replace("_", " "), e["days"] / 365.25
        if kind == "visit start":
            found["hospital stay" if e["code"].startswith(ADMISSIONS) else "outpatient visit"].append(years)
        elif kind == "diagnosis" and e["code"] not in known:
            known.add(e["code"])
            found["first diagnosis"].append(years)
        elif kind == "death":
            found["death"].append(years)
    for name, years in found.items():
        marker, size, color = MARKS[name]
        rise = 0.28 if name == "first diagnosis" else 0
        ax.scatter(years, [y + rise] * len(years), marker=marker, s=size, color=color, lw=0, zorder=4)


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    history, futures, recorded = None, [], None
    for line in sys.stdin:
        record = json.loads(line)
        if record["kind"] == "history":
            history = record
        elif record["kind"] == "recorded":
            recorded = record
        elif record["kind"] == "future":
            futures.append(record)
    if history is None or not futures:
        print("plot_futures: no history and futures on standard input: pipe `ehr-infer generate ... --json` in", file=sys.stderr)
        sys.exit(1)
    horizon = max([f["days"] for f in futures] + [365]) / 365.25
    past = max(horizon * 1.5, 1.0)
    n = len(futures)
    figure, ax = plt.subplots(figsize=(11, 1.6 + 0.24 * n))
    ax.axvspan(0, horizon, color="#f4f1ea", lw=0, zorder=0)
    middle = -(n - 1) / 2
    ax.plot([-past, 0], [middle, middle], color="#777777", lw=1, zorder=1)
    before = {e["code"] for e in history["events"] if e["days"] / 365.25 < -past}
    lane(ax, middle, [e for e in history["events"] if e["days"] / 365.25 >= -past], before)
    for k, future in enumerate(futures):
        end = future["days"] / 365.25
        ax.plot([0, 0.03 * horizon, end], [middle, -k, -k], color="#c9c2b2", lw=0.8, zorder=1)
        lane(ax, -k, future["events"], set(before))
    if recorded:
        y = -n - 0.6
        events = [e for e in recorded["events"] if e["days"] / 365.25 <= horizon]
        ax.plot([0, min(horizon, max(recorded["observed_days"], 0) / 365.25)], [y, y], color="#777777", lw=1.2, zorder=1)
        lane(ax, y, events, set(before))
        ax.text(-0.01 * horizon, y, "what really happened", ha="right", va="center", fontsize=9, color="#444444")
    ax.axvline(0, color="#444444", lw=0.8, ls=":")
    ax.text(0, 0.9, " index time", fontsize=9, color="#444444")
    ax.text(-past, middle + 0.5, "recorded history", fontsize=9, color="#444444")
    ax.text(horizon, 0.9, f"{n} simulated futures", fontsize=9, color="#444444", ha="right")
    for name, (marker, size, color) in MARKS.items():
        ax.scatter([], [], marker=marker, color=color, s=size, lw=0, label=name)
    ax.legend(ncol=len(MARKS), fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    ax.set_xlim(-past * 1.02, horizon * 1.02)
    ax.set_xlabel("years before and after the index time")
    ax.yaxis.set_visible(False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(sys.argv[1], bbox_inches="tight", metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)


if __name__ == "__main__":
    main()
