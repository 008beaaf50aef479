"""The part of report.html on single tokens: loss, accuracy, calibration of chances and of gaps."""

import html

import report_parts
from report_parts import interval, number, table


def percent(x):
    return "-" if x is None else f"{100 * x:.1f}%"


def draw_likeliest(t):
    figure, ax = report_parts.axes("The likeliest next token", "its chance", "share of times it came")
    bins = t["likeliest"]["bins"]
    x, y = [b["chance"] for b in bins], [b["share"] for b in bins]
    boxes = [b["interval"] or (b["share"], b["share"]) for b in bins]
    errors = [[max(v - b[0], 0) for v, b in zip(y, boxes, strict=True)], [max(b[1] - v, 0) for v, b in zip(y, boxes, strict=True)]]
    ax.errorbar(x, y, errors, fmt="o", ms=3, lw=1, color="#08519c")
    ax.plot([0, 1], [0, 1], color="#cccccc", lw=0.8)
    return report_parts.picture(figure)


def draw_kinds(t):
    figure, ax = report_parts.axes("Each kind of event", "chance that it is next", "share of times it was")
    for k in t["kinds"]:
        ax.plot([b["chance"] for b in k["bins"]], [b["share"] for b in k["bins"]], "o-", ms=3, lw=1, label=k["kind"].replace("_", " "))
    ax.plot([0, 1], [0, 1], color="#cccccc", lw=0.8)
    report_parts.legend(ax, ncols=2)
    return report_parts.picture(figure)


def draw_gaps(g):
    figure, ax = report_parts.axes("Lengths of gaps", "tenth of the model's law, from short to long", "share of gaps in it")
    y = [b["share"] for b in g["bins"]]
    boxes = [b["interval"] or (b["share"], b["share"]) for b in g["bins"]]
    errors = [[max(v - b[0], 0) for v, b in zip(y, boxes, strict=True)], [max(b[1] - v, 0) for v, b in zip(y, boxes, strict=True)]]
    ax.bar(range(1, len(y) + 1), y, color="#9ecae1")
    ax.errorbar(range(1, len(y) + 1), y, errors, fmt="none", lw=1, color="#08519c")
    ax.axhline(1 / len(y), color="#cb181d", lw=1, ls="--")
    ax.set_xticks(range(1, len(y) + 1))
    return report_parts.picture(figure)


def loss_table(t):
    excess = "excess" in t
    head = ["tokens", "nats a token", *(["excess over the floor"] if excess else []), "likeliest is right", "in the likeliest 5", "in the likeliest 10"]  # fmt: skip

    def cells(name, e):
        out = [name, e["n"], number(e["mean"]) + interval(e["interval"])]
        out += [number(e.get("excess"), 4)] if excess else []
        return [*out, *(percent(e[f"top_{k}"]) for k in (1, 5, 10))]

    kinds = [cells("all", t["all"])] + [cells(html.escape(e["kind"].replace("_", " ")), e) for e in t["by_kind"]]
    places = [
        cells(f"tokens {e['from'] + 1} to {e['to']}" if e["to"] else f"token {e['from'] + 1} and later", e)
        for e in t["by_place"]
    ]
    some = excess and t["excess"]["n"] < t["all"]["n"]
    floor = f"<p>The floor is known of {t['excess']['n']} of the {t['all']['n']} tokens; the excess is over those alone.</p>" if some else ""
    return table(["kind of event", *head], kinds) + floor + "<p></p>" + table(["place in the record", *head], places)


def calibration_section(t):
    rows = [[html.escape(k["kind"].replace("_", " ")), k["observed"], number(k["expected"], 0),
             number(k["observed_over_expected"], 3) + interval(k["interval"]), number(k["ece"], 4) + f" <small>({number(k['ece_by_chance'], 4)})</small>"] for k in t["kinds"]]  # fmt: skip
    text = (
        "<h3>Do the chances mean what they say?</h3><p>Of all the times the model gives its likeliest token a chance of, say, 60%, "
        f"it should come 60 times of 100: here it misses by {number(t['likeliest']['ece'], 4)} on average; a model that is right would miss by "
        f"{number(t['likeliest']['ece_by_chance'], 4)} by chance. Likewise for each kind of event.</p>"
        f'<div><img alt="calibration of the likeliest token" src="{draw_likeliest(t)}"> <img alt="calibration of kinds" src="{draw_kinds(t)}"></div>'
        + table(["next comes", "times", "expected", "observed / expected", "calibration error <small>(by chance)</small>"], rows)
    )
    g = t.get("gaps")
    if not g:
        return text
    still = f"; {g['open']} gaps were still open when observation ended and count over what was left" if g["open"] else ""
    return (
        text
        + f"<h3>Are gaps as long as it says?</h3><p>Each of {g['gaps']} tokens of gaps (a gap of more than half a year has several) is placed in the model's own law of its length, from the "
        "shortest tenth to the longest. Were the law right each tenth would hold a tenth of the gaps; "
        f"{percent(g['error'])} of them lie in the wrong tenth, where by chance {percent(g['error_by_chance'])} would"
        f'{still}.</p><p><img alt="calibration of gaps" src="{draw_gaps(g)}"></p>'
    )


def section(t):
    return (
        f"<p>On {t['patients']} held-out patients, by kind of event and by place in the record. What a model should learn from a "
        "long record shows in the last rows. A token is an event, with its value if it has one, or the gap up to the next.</p>" + loss_table(t) + calibration_section(t)
    )
