"""Draws a patient's recorded history, simulated futures and what really happened, from `ehr-infer generate --json`.

Usage: ehr-infer generate RUN/latest --data DATASET --patient 7 --samples 12 --json | plot_futures.py OUT.svg
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {
    "visit start": "#4c78a8",
    "visit end": "#4c78a8",
    "transfer": "#b279a2",
    "lab": "#9ecae9",
    "diagnosis": "#e45756",
    "procedure": "#b279a2",
    "drug": "#54a24b",
    "other": "#bab0ac",
    "death": "#000000",
}
SHOWN = ["visit start", "lab", "diagnosis", "drug", "procedure", "other", "death"]


def lane(ax, y, events, alpha=1.0, size=16):
    """One row of events; death is a cross, everything else a dot."""
    for kind in SHOWN:
        days = [e["days"] / 365.25 for e in events if e["kind"].replace("_", " ") == kind]
        if kind == "death":
            ax.scatter(days, [y] * len(days), marker="x", s=60, color="black", lw=2, zorder=4)
        else:
            ax.scatter(days, [y] * len(days), s=size, color=COLORS[kind], alpha=alpha, lw=0, zorder=3)


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
    lane(ax, middle, [e for e in history["events"] if e["days"] / 365.25 >= -past], size=26)
    for k, future in enumerate(futures):
        end = future["days"] / 365.25
        ax.plot([0, 0.03 * horizon, end], [middle, -k, -k], color="#c9c2b2", lw=0.8, zorder=1)
        lane(ax, -k, future["events"], alpha=0.85)
    if recorded:
        y = -n - 0.6
        events = [e for e in recorded["events"] if e["days"] / 365.25 <= horizon]
        ax.plot([0, min(horizon, max(recorded["observed_days"], 0) / 365.25)], [y, y], color="#777777", lw=1.2, zorder=1)
        lane(ax, y, events, size=26)
        ax.text(-0.01 * horizon, y, "what really happened", ha="right", va="center", fontsize=9, color="#444444")
    ax.axvline(0, color="#444444", lw=0.8, ls=":")
    ax.text(0, 0.9, " index time", fontsize=9, color="#444444")
    ax.text(-past, middle + 0.5, "recorded history", fontsize=9, color="#444444")
    ax.text(horizon, 0.9, f"{n} simulated futures", fontsize=9, color="#444444", ha="right")
    for kind in SHOWN:
        marker = "x" if kind == "death" else "o"
        ax.scatter([], [], marker=marker, color=COLORS[kind], s=24, label=kind)
    ax.legend(ncol=len(SHOWN), fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    ax.set_xlim(-past * 1.02, horizon * 1.02)
    ax.set_xlabel("years before and after the index time")
    ax.yaxis.set_visible(False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(sys.argv[1], bbox_inches="tight", metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)


if __name__ == "__main__":
    main()
