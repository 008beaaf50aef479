"""The privacy suite's part of report.html."""

import html

import numpy as np

import privacy
import report_parts
from report_parts import interval, number, table

ALARM = '<b class="alarm">alarm</b>'
ATTACK = {
    "loss": "how well the record is predicted",
    "min-k": "how well the most surprising fifth of it is predicted (Min-K%)",
    "loss against the reference": "how much better the record is predicted than by a reference checkpoint",
    "loss against the law": "how much better the record is predicted than by the law that drew it (known of synthetic patients alone)",
}
# Alarms of privacy.raise_alarms in words.
WORDS = {
    "canaries": "made-up records are remembered",
    "longest_shared_run": "generated years share longer runs of events with train records than with others",
    "nearest_distance": "generated years lie nearer to train records than to others",
    "against_recorded": "generated years lie nearer to train records than recorded years of the same people do, by more than to other records",
}
FIGURE = {
    "named_of_1": "named at once",
    "named_of_5": "among the first five named",
    "surprise": "surprise at it, nats (lower is closer)",
    "auc": "told from other diagnoses (AUC)",
}


def verdict(test):
    return ALARM if test.get("alarm") else "none"


def percent(x, digits=1):
    return "-" if x is None else f"{100 * x:.{digits}f}%"


def share(x, box, digits=1):
    return percent(x, digits) + ("" if not box else f" <small>({100 * box[0]:.{digits}f} to {100 * box[1]:.{digits}f})</small>")


def draw_attacks(pairs):
    """Few false accusations are what matter: both axes are logarithmic."""
    figure, ax = report_parts.axes("Members found, at each share of others accused", "of the others, accused", "of the members, found")
    least = 1e-3
    for name, member, other in pairs:
        cuts, member = np.sort(other)[::-1], np.sort(member)
        found = 1 - np.searchsorted(member, cuts, side="right") / member.size
        # From the first of the others that is accused: of fewer nothing was seen.
        ax.plot(np.arange(1, cuts.size) / cuts.size, np.maximum(found[1:], least), lw=1.3, label=name.replace("min-k", "Min-K%"))
    ax.plot([least, 1], [least, 1], color="#cccccc", lw=0.8, label="a coin")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.8 * least, 1.2)
    ticks = [1e-3, 1e-2, 1e-1, 1]
    ax.set_xticks(ticks, ["0.1%", "1%", "10%", "100%"])
    ax.set_yticks(ticks, ["0.1%", "1%", "10%", "100%"])
    report_parts.legend(ax, loc="lower right")
    return report_parts.picture(figure)


def draw_canaries(inserted, references):
    figure, ax = report_parts.axes("Made-up records: surprise of the model", "nats a record", "share of records", 5.6, 3.4)
    edges = np.histogram_bin_edges(np.r_[inserted, references], 40)
    for x, label, color in [(references, "never put anywhere", "#bbbbbb"), (inserted, "put into the train split", "#cb181d")]:
        ax.hist(x, edges, weights=np.full(x.size, 1 / x.size), alpha=0.7, color=color, label=label)
    report_parts.legend(ax)
    return report_parts.picture(figure)


def membership_section(p):
    rows = [
        [html.escape(ATTACK.get(m["attack"], m["attack"])), m["members"], m["others"], number(m["auc"]) + interval(m["interval"]),
         share(m["tpr_at_1_percent"], m["tpr_at_1_percent_interval"]),
         share(m["tpr_at_0.1_percent"], m["tpr_at_0.1_percent_interval"], 2), verdict(m)]
        for m in p["membership"]
    ]  # fmt: skip
    text = (
        "<h2>Can one tell who was trained on?</h2><p>Somebody holds a record and asks whether its owner was among the training "
        "patients, judging by how well the model predicts the record. Tried on records of the train split and of the tuning "
        "split, of which no weight was trained. AUC 0.5 is a coin. The last columns are the members found when 1% and 0.1% of "
        "the others may be accused wrongly: a coin finds 1% and 0.1%.</p>"
        + table(["judged by", "members", "others", "AUC", "found at 1%", "found at 0.1%", "alarm"], rows)
    )
    return text + (f'<p><img alt="members found" src="{draw_attacks(p["_attacks"])}"></p>' if p.get("_attacks") else "")


def canary_section(c):
    text = (
        f"<h2>Are made-up records remembered?</h2><p>{c['inserted']} made-up records were put into the train split, {c['copies']} times each, "
        f"and are ranked by the model's surprise among {c['references']} made-up records of the same kind that were put nowhere. "
        f"Exposure is how many bits of such a record are given away: {c['by_chance']:.2f} where nothing is remembered, "
        f"{np.log2(c['references'] + 1):.2f} where each is likelier than all others, more only by extrapolation. "
        + ("" if c["declared"] else "The checkpoint does not say that it was trained on canaries. ")
        + "A checkpoint trained on canaries must not leave research.</p>"
    )
    rows = [[number(c["exposure"], 2) + interval(c["interval"], 2), number(c["by_chance"], 2), number(c["most"], 2),
             number(c["extrapolated"], 2), f"{c['first']} of {c['inserted']}", number(c["auc"]) + interval(c["auc_interval"]), verdict(c)]]  # fmt: skip
    text += table(["exposure, mean bits", "by chance", "most", "mean, extrapolated", "likelier than all others", "AUC", "alarm"], rows)
    return text + (f'<p><img alt="surprise of canaries" src="{draw_canaries(*c["_losses"])}"></p>' if c.get("_losses") else "")


def copying_section(c):
    rows = [
        [label, number(c[k]["train"], 2), number(c[k]["others"], 2), number(c[k]["extreme_train"], 2), number(c[k]["extreme_others"], 2),
         number(c[k]["towards_train"]) + " <small>(by chance " + " to ".join(number(x) for x in c[k]["by_chance"]) + ")</small>",
         number(c[k]["p"]), verdict(c[k])]
        for k, label in [("longest_shared_run", "longest run of events shared"), ("nearest_distance", "distance to the nearest record")]
    ]  # fmt: skip
    text = (
        f"<h2>Does it copy records?</h2><p>{c['generated']} generated years against {c['pool']} train records and as many tuning "
        "records. A model that copies is nearer to the first than chance has it: by chance is what the difference is when the "
        "records are dealt to the two sides again. Distance: of the sets of codes, 0 the same, 1 nothing shared.</p>"
        + table(["", "train, mean", "tuning, mean", "train, extreme", "tuning, extreme", "towards train", "p", "alarm"], rows)
    )
    if "against_recorded" in c:
        a = c["against_recorded"]
        text += (f"<p>The nearest train record lies {number(a['simulated'])} from a simulated year and {number(a['recorded'])} from the year "
                 f"that was recorded of the same {a['people']} people; the nearest tuning record {number(a['simulated_others'])} and "
                 f"{number(a['recorded_others'])}. Simulated years are nearer to train records by {number(a['towards_train'])} more than to the others "
                 f"<small>(by chance {' to '.join(number(x) for x in a['by_chance'])})</small>, p {number(a['p'])}, alarm: {verdict(a)}. "
                 f"{a['copies']} simulated and {a['copies_recorded']} recorded years have exactly the codes of a train record, {a['copies_others']} "
                 "simulated ones those of a tuning record.</p>")  # fmt: skip
    return text


def attribute_section(a):
    digits = {"auc": 3, "surprise": 3}
    rows = []
    for r in a["figures"]:
        k = r["figure"]
        if k in digits:
            cells = [number(r[x]) for x in ("train", "others", "by_frequency")] + [number(r["gap"]) + interval(r["interval"])]
        else:
            cells = [percent(r[x]) for x in ("train", "others", "by_frequency")] + [share(r["gap"], r["interval"])]
        rows.append([FIGURE[k], *cells, verdict(r)])
    return (
        "<h2>Can it name what was withheld?</h2><p>Somebody knows a record up to a sensitive diagnosis, and that a diagnosis stands "
        f"there, and asks the model which. {a['mentions_train']} first mentions of sensitive codes in train records and "
        f"{a['mentions_others']} in tuning records. What it names of patients it never saw is medicine; what it names better of those "
        "it was trained on, it was told. Beside it the guess of who knows only how frequent each code is.</p>"
        + table(["", "train patients", "patients never seen", "by frequency", "train, better by", "alarm"], rows)
    )


def identifiers_section(i):
    if i["clean"]:
        said = "found no identifier of a person in them"
    else:
        said = '<b class="alarm">found what may be identifiers of persons</b>: ' + ", ".join(
            f"{n} {html.escape(k)}" for k, n in i["findings"].items()
        )
    return (
        f"<h2>Are there identifiers in what it writes?</h2><p><code>ehr-data phi-scan</code> read {i['timelines']} generated "
        f"timelines and {said}. That it finds nothing is no proof that nothing is there.</p>"
    )


def section(p):
    text = membership_section(p)
    text += canary_section(p["canaries"]) if p.get("canaries") else ""
    text += copying_section(p["copying"]) if "copying" in p else ""
    text += attribute_section(p["attributes"]) if p.get("attributes") else ""
    return text + (identifiers_section(p["identifiers"]) if "identifiers" in p else "")


def in_words(alarm):
    kind, _, rest = alarm.partition(": ")
    if kind == "attribute":
        return f"withheld sensitive codes of train patients are easier to find: {FIGURE[rest]}"
    if alarm.startswith("membership by "):
        rest = alarm.removeprefix("membership by ")
        return f"train patients are told from others by {ATTACK.get(rest, rest)}"
    return WORDS.get(alarm, alarm)


def unseen(p):
    """What so many patients could not rule out."""
    boxes = [m["interval"][1] for m in p["membership"] if m["interval"]]
    if not boxes:
        return ""
    m = p["membership"][0]
    return (f" That is no proof that none can be told: from {m['members']} training patients and {m['others']} others, an AUC of up to {max(boxes):.3f} "
            "(a coin: 0.5) is not ruled out.")  # fmt: skip


def summary(p):
    """The first thing to read."""
    tested = [a for a in p["alarms"] if a != privacy.IDENTIFIERS]
    found = "" if len(tested) == len(p["alarms"]) else '<p><b class="alarm">There may be identifiers in what it writes.</b></p>'
    if not tested:
        return f"<p>No alarm in {p['tests']} tests: nothing was shown to tell training patients from others.{unseen(p)}</p>{found}"
    names = "".join(f"<li>{html.escape(in_words(n))}</li>" for n in tested)
    alarms = f"{len(tested)} {'alarm' if len(tested) == 1 else 'alarms'}"
    return (
        f'<p><b class="alarm">{alarms}</b> in {p["tests"]} tests:</p><ul>{names}</ul>An alarm says that something can be '
        f"told at all; the figures below say how much. Of all alarms at most 5% are expected to be chance.{found}"
    )
