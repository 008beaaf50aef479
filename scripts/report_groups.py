"""The parts of report.html on groups of patients: alarms, figures by group, events recorded and expected."""

import html

import numpy as np

import fairness
from report_parts import figure_of, interval, number, table

STATISTIC = {
    "log_oe": "observed over expected",
    "slope": "calibration slope",
    "tpr_excess": "sensitivity against what its risks promise",
    "recorded_oe": "events recorded over events expected",
}


def label_of(s):
    return f"{html.escape(s['group'].lower())}: {html.escape(s['label'])}"


def alarm_cell(s):
    found = [f"{STATISTIC[t['statistic']]}, p {t['p_adjusted']:.2g}" for t in s.get("tests", []) if t["alarm"]]
    return f'<b class="alarm">{"; ".join(found)}</b>' if found else "none"


def subgroup_table(o):
    judged = [s for s in o["subgroups"] if "tests" in s]
    threshold = any(s.get("tpr") is not None for s in judged)
    rows = []
    for s in judged:
        rows.append([label_of(s), s["n"], s["positive"], number(s["prevalence"]), number(s["mean_risk"]), figure_of(s, "auroc"),
                     figure_of(s, "oe", 2), figure_of(s, "slope", 2), figure_of(s, "tpr", 2) if threshold else None, alarm_cell(s)])  # fmt: skip
    head = ["group", "forecasts", "had it", "share", "mean risk", "AUROC", "observed / expected", "calibration slope",
            "found at the threshold" if threshold else None, "alarm"]  # fmt: skip
    text = table(head, rows) if rows else ""
    few = [f"{html.escape(s['group'].lower())} {html.escape(s['label'])} ({s['positive']} of {s['n']})"
           for s in o["subgroups"] if "tests" not in s and s["note"] != "everybody"]  # fmt: skip
    if few:
        text += f"<p>Not judged, fewer than {fairness.LEAST_POSITIVES} had it: {', '.join(few)}.</p>"
    return text


def recorded_section(recorded):
    """Events over whole records, by group."""
    if not recorded:
        return ""
    text = (
        "<h2>Does the model expect as many events as there are, in every group?</h2><p>At every step of a held-out record the "
        "model says how likely the event is to come next. Added up over whole records that is how many it expects; above 1 "
        "there were more. Groups are those that a record begins with. An alarm: the ratio is more than a twentieth away from the "
        "other patients', by more than chance.</p>"
    )
    for r in recorded:
        rows = [["everybody", r["patients"], r["observed"], number(r["expected"], 1), number(r["oe"], 2) + interval(r["interval"], 2), ""]]
        for s in r["groups"]:
            alarm = alarm_cell(s) if "tests" in s else "<small>too few to judge</small>"
            rows.append([label_of(s), s["patients"], s["observed"], number(s["expected"], 1),
                         number(s["oe"], 2) + interval(s["interval"], 2), alarm])  # fmt: skip
        codes = ", ".join(html.escape(c) for c in r["codes"][:6]) + (" ..." if len(r["codes"]) > 6 else "")
        text += f"<h3>{html.escape(r['name'])} <small>{codes}</small></h3>"
        text += table(["group", "patients", "events recorded", "expected", "recorded / expected", "alarm"], rows)
    return text


def sentence(a):
    who = f"{html.escape(a['outcome'])}, {html.escape(a['subgroup'].replace('//', ' '))}: "
    p = f" (p after correction {a['p_adjusted']:.2g})"
    if a["statistic"] not in ("log_oe", "recorded_oe"):
        return who + f"{STATISTIC[a['statistic']]} differs from the other patients' by {a['gap']:+.2f}{p}"
    more, ratio = ("more", np.exp(a["gap"])) if a["gap"] > 0 else ("fewer", np.exp(-a["gap"]))
    where = "events are in their records" if a["statistic"] == "recorded_oe" else "of them had it"
    return who + f"{more} {where} than the model expects: by {ratio:.2f} times, with the other patients as the measure{p}"


def summary(report):
    if not report["alarm_tests"]:
        return "No group had enough positives to be judged for fairness."
    if not report["alarms"]:
        return (f"No group of patients (by sex, race, age, length of record) was found whose risks are wrong in another way than the others': "
                f"no alarm in {report['alarm_tests']} tests. Groups in which fewer than {fairness.LEAST_POSITIVES} had an outcome were not judged.")  # fmt: skip
    lines = "".join(f"<li>{sentence(a)}</li>" for a in report["alarms"])
    return (f'<b class="alarm">The model is wrong in another way for some groups of patients: {len(report["alarms"])} '
            f'{"alarm" if len(report["alarms"]) == 1 else "alarms"}</b> in {report["alarm_tests"]} tests.<ul>{lines}</ul>')  # fmt: skip
