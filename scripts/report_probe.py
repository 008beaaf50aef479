"""The part of report.html on what a few labels get out of the hidden states of the model."""

import report_parts
from report_parts import interval, number, table


def draw(o):
    p = o["probe"]
    figure, ax = report_parts.axes("Learnt from few patients", "positives learnt from (and as many negatives)", "AUROC", 5.0, 3.8)
    shots = [r for r in p["curve"] if r["k"]]
    for name, label, color in [("embedding", "regression on the model's states", "#08519c"), ("counts", "regression on counts of codes", "#d94801")]:
        if shots:
            ax.plot([r["k"] for r in shots], [r[name]["auroc"] for r in shots], "o-", ms=3, lw=1.3, color=color, label=label)
            boxes = [r[name]["interval"] or [r[name]["auroc"]] * 2 for r in shots]
            ax.fill_between([r["k"] for r in shots], [b[0] for b in boxes], [b[1] for b in boxes], color=color, alpha=0.12, lw=0)
        ax.axhline(p["curve"][-1][name]["auroc"], color=color, lw=1, ls=":", label=f"the same, from all {p['train_rows']} rows")
    if p["simulated_auroc"] is not None:
        ax.axhline(p["simulated_auroc"], color="#333333", lw=1, ls="--", label="simulated futures, no label")
    ax.set_xscale("log", base=2)
    ax.set_xticks([r["k"] for r in shots], [str(r["k"]) for r in shots])
    report_parts.legend_below(ax)  # curves go everywhere
    return report_parts.picture(figure)


def section(o):
    p = o["probe"]
    rows = []
    for r in p["curve"]:
        gap = number(r["difference"]) + interval(r["difference_interval"])
        cells = [number(r[k]["auroc"]) + interval(r[k]["interval"]) for k in ("embedding", "counts")]
        rows.append([f"{r['k']} and {r['k']}" if r["k"] else f"all: {r['positives']} and {r['negatives']}", *cells, gap])
    best = max((b["auroc"] for b in o["baselines"] if b["auroc"] is not None), default=None)
    return (
        "<h3>What a few labels are worth</h3><p>A regression on what the model makes of a record (its hidden states, "
        f"{p['width']} numbers) and one on counts of codes, learnt from the same few patients, each the mean of {p['draws']} draws of them. "
        f"On the same {p['test_rows']} held-out rows the simulated futures, which take no label, have AUROC {number(p['simulated_auroc'])}"
        + (f"; the best of the baselines above {number(best)}" if best is not None else "")
        + f'.</p><p><img alt="few-shot curves" src="{draw(o)}"></p>'
        + table(["positives and negatives", "on the model's states", "on counts", "states minus counts"], rows)
    )
