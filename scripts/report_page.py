"""report.html and model_card.md: the figures of an evaluation in pictures and plain words."""

import html
import re

import numpy as np

import fairness
import metrics
import report_groups
from report_parts import axes, figure_of, interval, legend, legend_of_many, number, picture, table

# ---- pictures ------------------------------------------------------------------------------------------------------


def draw_loss(steps, evals):
    figure, ax = axes("Loss while training", "step", "nats a token", 5.6, 3.6)
    if steps:
        ax.plot([s["step"] for s in steps], [s["loss"] for s in steps], color="#9ecae1", lw=1, label="train, each step")
    if evals:
        ax.plot(
            [e["step"] for e in evals], [e["loss"] for e in evals], "o-", color="#08519c", ms=3, label="tuning split"
        )
        for key, label, color in [
            ("loss_unigram", "unigram", "#bbbbbb"),
            ("loss_bigram", "bigram", "#888888"),
            ("loss_floor", "floor: no model can be lower", "#cb181d"),
        ]:
            value = evals[-1].get(key)
            if value is not None:
                ax.axhline(value, color=color, lw=1, ls="--", label=f"{label} {value:.3f}")
        finite = [e["loss"] for e in evals if e["loss"] is not None]
        low = min([*finite, evals[-1].get("loss_floor") or 1e9])
        high = max([evals[-1].get("loss_unigram") or 0, *finite])
    if evals and low < high:
        ax.set_ylim(low - 0.05 * (high - low) - 0.02, high + 0.1 * (high - low) + 0.02)
    legend(ax)
    return picture(figure)


def draw_roc(outcomes):
    figure, ax = axes("Discrimination (ROC)", "false positive rate", "true positive rate")
    for o in outcomes:
        if o["auroc"] is not None:
            ax.plot(*metrics.roc(*o["_curve"]), lw=1.4, label=f"{o['name']}  {o['auroc']:.3f}")
    ax.plot([0, 1], [0, 1], color="#cccccc", lw=0.8)
    legend_of_many(ax, loc="lower right")
    return picture(figure)


def draw_calibration(outcomes):
    figure, ax = axes("Calibration (ten bins of equal size)", "predicted risk", "observed or true risk")
    top = 0.01
    for o in outcomes:
        bins = (o.get("expected") or o["observed"])["calibration"]
        if bins:
            ax.plot([b["risk"] for b in bins], [b["outcome"] for b in bins], "o-", ms=3, lw=1, label=o["name"])
            top = max([top] + [b["risk"] for b in bins] + [b["outcome"] for b in bins])
    ax.plot([0, top], [0, top], color="#cccccc", lw=0.8)
    legend_of_many(ax)
    return picture(figure)


LEAST_DRAWN = 5  # positives, and negatives, of a calibration plot: fewer say nothing in a picture
LEAST_CURVE = 20  # of its smooth curve, which bends after every single one of fewer


def independent(patient, y):
    """How many independent rows say as much about the mean of y as these do, of which a patient may have several."""
    share = y.mean()
    if share in (0, 1):
        return np.unique(patient).size
    return y.size / fairness.dispersion(patient, y - share, np.full(y.size, share * (1 - share)))


def calibration_points(risk, y, patient):
    """Bins of equal size, as many as leave five of the rarer class to each: mean risk, share, its interval, rows."""
    rarer = min(y.sum(), (1 - y).sum())
    order, start = metrics._bins(risk, int(np.clip(rarer // LEAST_DRAWN, 2, 10)))
    points = []
    for part in np.split(order, start[1:]):
        share, n = y[part].mean(), independent(patient[part], y[part])
        points.append((risk[part].mean(), share, *metrics.wilson(share * n, n), part.size))
    return points


def draw_one_calibration(o):
    """Bins and the smooth curve, raw and recalibrated, of one outcome."""
    study = o["_study"]
    figure, ax = axes("Predicted and observed", "predicted risk", "share who had it")
    top = 0.01
    for label, risk, color in [("as the model says", study.raw, "#08519c"), ("recalibrated", study.mapped, "#d94801")]:
        if label == "recalibrated" and not study.record:
            continue
        points = np.array(calibration_points(risk, study.y, study.rows.patient[study.known]))
        x, y, low, high = points[:, 0], points[:, 1], points[:, 2], points[:, 3]
        ax.errorbar(x, y, [np.maximum(y - low, 0), np.maximum(high - y, 0)], fmt="o", ms=4, lw=0.8, color=color, label=label)
        order = np.argsort(risk)
        if min(study.y.sum(), (1 - study.y).sum()) >= LEAST_CURVE and not metrics.separated(risk, study.y) and np.ptp(metrics.logit(risk)) > 1e-9:
            curve = metrics.calibration_curve(risk, study.y, np.ones((1, risk.size)))[0]
            ax.plot(risk[order], curve[order], color=color, lw=1.2)
        top = max(top, x.max(), high.max())
    ax.plot([0, top], [0, top], color="#cccccc", lw=0.8, label="perfect")
    shown = study.raw[study.raw <= 1.15 * top]  # one mark a patient
    ax.plot(shown, np.full(shown.size, -0.02 * top), "|", ms=5, mew=0.6, alpha=0.3, color="#08519c")
    ax.set_xlim(0, 1.15 * top)
    ax.set_ylim(-0.03 * top, 1.15 * top)
    legend(ax, loc="upper left")
    return picture(figure)


def draw_decision(o):
    rows = o["decision_curve"]
    figure, ax = axes("Is acting on it worth it?", "risk at which one would act", "net benefit a patient")
    t = [r["threshold"] for r in rows]
    ax.plot(t, [r["model"] for r in rows], color="#08519c", label="act on the model")
    ax.plot(t, [r["all"] for r in rows], color="#888888", lw=1, label="act on everybody")
    ax.axhline(0, color="#cccccc", lw=1, label="act on nobody")
    high = max(r["model"] for r in rows)
    ax.set_ylim(-0.25 * max(high, 1e-4), 1.15 * max(high, 1e-4))
    legend(ax)
    return picture(figure)


# ---- tables --------------------------------------------------------------------------------------------------------


def plain_name(o):
    """admission_1y -> admission within 365 days; the file's own name stays in headings."""
    words = re.sub(r"(_\d+[a-z]+)+$", "", o["name"]).replace("_", " ")
    return html.escape(words) + within(o)


def name_link(o):
    return f'<a href="#{html.escape(o["name"])}">{plain_name(o)}</a>'


def within(o):
    longer = re.fullmatch(r"(\d+)d", o.get("task", {}).get("longer_than", ""))
    if longer:  # a stay's length is the outcome; its horizon is only what is left of it
        return f" (more than {longer[1]} days)"
    days = o["horizon_days"]
    if days is None or not np.isfinite(days):
        return ""
    return f" within {days:g} days" if days >= 1 else f" within {1440 * days:g} minutes"


def outcome_tables(outcomes, truth):
    """truth: some outcome has true risks; without them their columns are left out."""

    def if_truth(cell):
        return cell if truth else None

    told, right = [], []
    for o in outcomes:
        block = o.get("expected") or o["observed"]
        told.append([
            plain_name(o), o["n"], o["positive"], o["censored"], number(o["auroc"]) + interval(o["auroc_interval"]),
            if_truth(number(o["auroc_true_risk"])), number(block["auprc"]), number(o["positive"] / max(o["n"] - o["censored"], 1)),
        ])  # fmt: skip
        right.append([
            plain_name(o), number(o["mean_risk"]), if_truth(number(o.get("mean_true_risk"))), figure_of(block, "oe", 2),
            number(o["slope"], 2) + interval(block["interval"].get("slope"), 2), number(block["brier"], 4),
            if_truth(number(o["rmse"], 4)), number(o["mean_mc_se"], 4),
        ])  # fmt: skip
    return (
        table(["can it tell patients apart?", "forecasts", "had it", "followed too short", "AUROC", if_truth("the highest there is"), "AUPRC",
               "AUPRC without skill"], told)
        + "<p></p>"
        + table(["are its risks right?", "mean risk", if_truth("mean true risk"), "observed / expected", "calibration slope", "Brier",
                 if_truth("RMSE to true risk"), "sampling error"], right)
    )  # fmt: skip


def in_short(o):
    """One outcome in a sentence or two that need no statistics."""
    b, known = o["observed"], o["n"] - o["censored"]
    asked = "patients" if o["patients"] == o["n"] else f"forecasts ({o['patients']} patients)"
    if o["censored"]:
        asked += f" followed long enough ({o['censored']} more were not)"
    if b["auroc"] is None or not o["positive"]:
        return f"<li><b>{name_link(o)}</b>: {o['positive']} of {known} {asked} had it; that is too few to say anything.</li>"
    # Beside the best possible, which is an expectation, stand expectations: a few patients' luck can pass it.
    kind = "auroc_expected" if o["auroc_true_risk"] else "auroc"
    told_apart, box = (o["auroc"], o["auroc_interval"]) if o["auroc_true_risk"] else (b["auroc"], b["interval"]["auroc"])
    text = (
        f"<li><b>{name_link(o)}</b>: it came true for {o['positive']} of {known} {asked}; by the model's risks "
        f"{number(o['positive'] / b['oe'], 1) if b['oe'] else '-'} were expected. Of one who had it and one who did not, the first was given "
        f"the higher risk in {100 * told_apart:.0f}% of all such pairs ({f'{100 * box[0]:.0f} to {100 * box[1]:.0f}% with other patients; ' if box else ''}a coin: 50%"
    )
    best = max([x for x in o["baselines"] if x[kind] is not None], key=lambda x: x[kind], default=None)
    text += f"; {html.escape(best['name'])}: {100 * best[kind]:.0f}%" if best else ""
    text += f"; the best possible: {100 * o['auroc_true_risk']:.0f}%" if o["auroc_true_risk"] else ""
    alarms = [s for s in o["subgroups"] if any(t["alarm"] for t in s.get("tests", []))]
    text += ")."
    c = o.get("censoring_weighted")
    if c and c["oe"]:
        text += (f" With those followed long enough standing in for the {o['censored']} that were not, an estimate: {percent_1(c['prevalence'])} had it, "
                 f"{percent_1(c['prevalence'] / c['oe'])} were expected.")  # fmt: skip
    if alarms:
        text += f' <b class="alarm">Its risks are wrong in another way for {", ".join(html.escape(s["label"]) for s in alarms)}.</b>'
    return text + "</li>"


def baseline_table(o):
    head = ["model", "AUROC", "AUPRC", "Brier", "log loss", "calibration slope", "AUROC: ours minus it"]

    def cells(name, block, difference):
        return [name, figure_of(block, "auroc"), figure_of(block, "auprc"), figure_of(block, "brier", 4),
                figure_of(block, "log_loss", 4), number(block.get("slope"), 2), difference]  # fmt: skip

    rows = [cells("this model", o["observed"], "")]
    if "recalibrated" in o:
        rows.append(cells("this model, recalibrated", o["recalibrated"], ""))
    for b in o["baselines"]:
        rows.append(cells(html.escape(b["name"]), b, figure_of(b["ours_minus_it"], "auroc")))
    return table(head, rows)


def percent_1(x):
    return "-" if x is None else f"{100 * x:.1f}%"


def basis_table(o):
    """What was counted and what stands in for those who were not followed long enough, side by side; "" where all were."""
    if not o["censored"]:
        return ""
    b, c = o["observed"], o.get("censoring_weighted")
    head = ["figures of", "forecasts", "had it", "expected", "observed / expected", "AUROC", "calibration slope", "Brier"]

    def cells(name, share, block, forecasts):
        expected = share / block["oe"] if share is not None and block["oe"] else None
        return [name, forecasts, percent_1(share), percent_1(expected), number(block["oe"], 2), number(block["auroc"]), number(block["slope"], 2),
                number(block["brier"], 4)]  # fmt: skip

    known = o["n"] - o["censored"]
    rows = [cells("those followed long enough, each counted once", o["positive"] / known if known else None, b, known)]
    if c:
        rows.append(cells("all, by weight: those followed long enough stand in for the others too", c["prevalence"], c, o["n"]))
    told = "The second line is the fairer one, as far as who left too soon depended on time and risk alone. " if c else ""
    return (
        f"<p>{o['censored']} of {o['n']} forecasts were not followed for {o['horizon_days']:g} days, so that nobody knows whether they came true. {told}"
        "Whatever this section shows besides is of those followed long enough, each counted once; weights are inverse "
        "probabilities of being followed so long (Kaplan and Meier, by quarters of the risk).</p>" + table(head, rows)
    )


def percent(x):
    return "-" if x is None else f"{100 * x:.0f}%"


def budget_table(o):
    head = [
        "alerts wanted of 100",
        "alerts got of 100",
        "found, of those who had it",
        "right, of the alerts",
        "days ahead (median)",
    ]
    rows = [[f"{b['budget']:g}", number(b["alerts_per_100"], 1), percent(b["tpr"]), percent(b["ppv"]),
             number(b["lead_days"], 0)] for b in o["budgets"]]  # fmt: skip
    return table(head, rows)


# ---- pages ---------------------------------------------------------------------------------------------------------

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1280px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2.2em;border-top:1px solid #ddd;padding-top:.8em}h3{font-size:1.05em;margin-top:1.6em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;background:linear-gradient(to right,#fff 30%,transparent) 0 0/3em 100% local,linear-gradient(to left,#fff 30%,transparent) 100% 0/3em 100% local,
linear-gradient(to right,#0003,transparent) 0 0/.8em 100%,linear-gradient(to left,#0003,transparent) 100% 0/.8em 100%;background-repeat:no-repeat}
a{color:#08519c}td,th{padding:.3em .55em;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}
td:first-child,th:first-child{text-align:left;min-width:7em}th{font-weight:600;font-size:.9em;vertical-align:bottom}
small{color:#666}td small{white-space:nowrap}h2 small,h3 small{font-weight:normal;overflow-wrap:anywhere}li{max-width:70em;margin:.3em 0}img{max-width:100%}p{max-width:52em}
div.note{max-width:70em}.note{background:#f6f6f2;padding:.7em 1em;border-left:3px solid #bbb}.alarm{color:#b30000}"""


def loss_section(report, steps, evals):
    se = "" if report["excess_loss_se"] is None else f" <small>&plusmn; {report['excess_loss_se']:.4f}</small>"
    losses = [
        [label, number(value, 4) + error]
        for label, value, error in [
            ("this model", report["loss"], ""),
            ("floor: the law that drew these patients", report["loss_floor"], ""),
            ("excess over the floor", report["excess_loss"], se),
            ("bigram: knows the last token only", report["loss_bigram"], ""),
            ("unigram: knows how common a token is", report["loss_unigram"], ""),
        ]
        if value is not None
    ]
    text = "<h2>How well the next event is predicted</h2>"
    if losses:
        text += (
            "<p>Mean surprise in nats a token (0: it was certain and right; 0.69: two things were equally likely; each nat more: 2.7 times as many) "
            "on the tuning split of the data it was trained on, as training measured it; lower is better.</p>"
            + table(["", "nats"], losses)
        )
    if steps or evals:
        text += f'<p><img alt="loss curve" src="{draw_loss(steps, evals)}"></p>'
    text += report.get("_tokens", "")
    return text


def outcome_section(o):
    text = f"<h2 id=\"{html.escape(o['name'])}\">{plain_name(o).capitalize()} <small>{html.escape(o['name'])}</small></h2>"
    note = o.get("task", {}).get("note")
    text += f"<p>{html.escape(note)}</p>" if note else ""
    counts = o.get("counts", {}).get("excluded", {})
    left = ", ".join(f"{n} {html.escape(k.replace('index', 'time to forecast at'))}" for k, n in counts.items() if n)
    text += f"<p><small>Left out when labels were made: {left}.</small></p>" if left else ""
    text += basis_table(o)
    rarer = min(o["positive"], o["n"] - o["censored"] - o["positive"])
    if rarer < LEAST_DRAWN:
        text += f"<p>{o['positive']} of {o['n'] - o['censored']} patients had it: too few to draw how right the risks are.</p>"
    elif o["observed"]["auroc"] is not None:
        text += f'<div><img alt="calibration" src="{draw_one_calibration(o)}">'
        text += f' <img alt="decision curve" src="{draw_decision(o)}">' if "decision_curve" in o else ""
        text += (
            "</div><p><i>Predicted and observed</i>: each dot is a part of the patients, its bar the 95% interval; on the grey line as many had it as the model said, above "
            "it more. The ticks below are the patients. "
            "<i>Is acting on it worth it?</i> Where the blue line is the highest, acting on the model's risk does more good "
            "than acting on everybody or on nobody; in patients helped of each one seen, less those bothered for nothing.</p>"
        )
    if o.get("recalibration"):
        r = o["recalibration"]
        how = (
            f"Not recalibrated: {html.escape(r['fitted'].removeprefix('nothing: '))}. "
            if r["fitted"].startswith("nothing")
            else f"Recalibrated on the tuning split ({r['rows']} forecasts, {r['positive']} of them had it; fitted: {html.escape(r['fitted'])}): the "
            f"log-odds of a risk times {r['slope']:.2f}, {'plus' if r['intercept'] >= 0 else 'minus'} {abs(r['intercept']):.2f}. "
        )
        text += f"<p>{how}Alert thresholds come from the tuning split. What they do on held-out patients:</p>" + budget_table(o)
    if o["baselines"]:
        text += (
            "<h3>Against simpler models</h3><p>Trained on the same patients and labels. A difference whose interval "
        )
        text += "holds 0 is none that these patients can show.</p>" + baseline_table(o)
    text += o.get("_probe", "")
    if o["subgroups"]:
        text += "<h3>By group</h3>" + report_groups.subgroup_table(o)
    return text


def futures_section(f):
    """Simulated years beside recorded ones."""
    rows = [[t["distance"], number(t["value"]), number(t["by_chance"]), number(t["p"])] for t in f["tests"]]
    unlike = [
        [html.escape(u["code"]), f"{100 * u['share_recorded']:.2f}%", f"{100 * u['share_simulated']:.2f}%"]
        for u in f["most_unlike"]
    ]
    return (
        "<h2>Do simulated years look like recorded ones?</h2>"
        f"<p>One simulated year of each of {f['patients']} held-out patients beside the recorded one: {f['events_simulated']:.1f} and "
        f"{f['events_recorded']:.1f} events. If the model were right the two could change places, which gives each distance by chance; "
        "a small p says that they cannot.</p>"
        + table(["distance in", "simulated to recorded", "by chance", "p"], rows)
        + "<p>The codes whose share of all events differs most, whether by chance or not:</p>"
        + table(["code", "recorded", "simulated"], unlike)
    )


def risks_section(outcomes):
    truth = any(o.get("expected") for o in outcomes)
    basis = (
        "These patients are synthetic and their true risks are known: AUROC, slope and error are taken against the truth "
        "in expectation where there is one. No model can have a higher AUROC than the column beside it, but by chance."
        if truth
        else "Outcomes are those recorded. Figures of these tables and pictures are of the forecasts that were followed to the horizon, each "
        "counted once; those followed too short are counted, and what they may change stands in each outcome's own section."
    )
    return (
        f"<h2>How well risks are told apart, and whether they are right</h2><p>A forecast is the risk of one patient at one time. {basis} "
        "Intervals, in small print: 95%, resampling patients.</p>"
        + '<p>The figures below are explained at the <a href="#reading">end of this page</a>.</p>'
        + outcome_tables(outcomes, truth)
        + f'<div><img alt="ROC" src="{draw_roc(outcomes)}"> <img alt="calibration" src="{draw_calibration(outcomes)}"></div>'
        + "".join(outcome_section(o) for o in outcomes)
    )


READING = """<h2 id="reading">How to read this</h2>
<p>AUROC: the chance that a patient who has the outcome was given a higher risk than one who has not; 0.5 is a coin.
AUPRC: the precision at each depth of the ranking, averaged; without any skill it is the share of positives. Brier: the mean
squared error against what happened. Observed / expected: the number who had the outcome over the sum of the risks; above 1
the risks are too low. Calibration slope: 1 when risks are as spread as they should be, below 1 when they are
too extreme. Sampling error: the mean standard error of a risk from simulating a finite number of futures; it says nothing
about the error of the model. Net benefit: right alerts, less needless ones at the price that the chosen risk implies.</p>
<p>Groups: an alarm says that a group's risks are wrong in another way than everybody else's: more or fewer had the outcome
than the risks promised (by more than a twentieth in the odds), the risks are too extreme or too flat, or alerts find fewer than those risks promise. A group with more
illness has no alarm for that. AUROCs of groups are shown, not judged: they differ with how varied the patients of a group are
even when every risk is right. Of all alarms in this report at most 5% are expected to be chance (Benjamini and Hochberg);
groups with fewer than 20 positives are not judged, and no alarm there is no assurance.</p>"""


ESTIMATOR = {
    "mc": "the share of simulated futures that hold the outcome",
    "scope": "simulated futures, the chance of the outcome added up at every step",
    "reach": "simulated futures kept free of the outcome, its chance taken at every step",
    "next": "the chance that the outcome is the very next event: a cheap stand-in",
}


def in_short_box(report):
    """What somebody reads who reads nothing else."""
    outcomes = report["outcomes"]
    parts = ["<ul>" + "".join(in_short(o) for o in outcomes) + f"</ul>{report_groups.summary(report)}"] if outcomes else []
    parts += [report["_summary"]] if report.get("_summary") else []
    return f'<div class="note"><b>In short</b>{"".join(parts)}</div>' if parts else ""


def made_of(report):
    used = sorted({o["estimator"] for o in report["outcomes"] if o["estimator"]})
    how = "".join(f", risks: {ESTIMATOR.get(k, html.escape(k))} ({html.escape(k)})" for k in used)
    futures = f", {report['samples']} futures a forecast" if used and report.get("samples") else ""
    return (
        f"<p><small>Checkpoint {html.escape(report['checkpoint'] or '-')}, dataset {html.escape(report['dataset'])} (de-identification "
        f"level: {html.escape(str(report['deidentification']))}){how}{futures}, seed {report['seed']}. Every figure is in report.json.</small></p>"
    )


def page(report, steps, evals):
    outcomes, privacy = report["outcomes"], report.get("privacy")
    notes = "".join(f"<li>{html.escape(n)}</li>" for n in report.get("notes", []))
    if "_sequential" in report:
        title, asked = "Finding diagnoses, test by test", "was asked to find diagnoses, one test after the other; here is how often it was right, and at what price."
    elif privacy:
        title, asked = "What the model gives away", "was asked what it gives away about the patients it was trained on."
    else:
        title, asked = "How right its risks are", "was asked, for patients it has never seen, how likely certain outcomes are; here is how right it was."
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>ehr.c report</title><style>{STYLE}</style>
<h1>Evaluation report: {title[0].lower() + title[1:]}</h1>
<p class="note">For research. Not a medical device; not for use in the care of any person.</p>
<p>A model that reads a patient's record and simulates how it goes on {asked}</p>
{in_short_box(report)}
{made_of(report)}
{"<p>Not evaluated, or not in full:</p><ul>" + notes + "</ul>" if notes else ""}
{risks_section(outcomes) if outcomes else ""}
{report_groups.recorded_section(report.get("recorded", []))}
{report.get("_privacy", "")}
{report.get("_sequential", "")}
{loss_section(report, steps, evals)}
{futures_section(report["futures"]) if report.get("futures") else ""}
{READING if outcomes else ""}
</html>"""


def model_card(report, dataset):
    p = report["provenance"]
    config, trainer = p["config"], p["trainer"]
    made = trainer.get("provenance", {})
    shape = ", ".join(f"{config[k]} {label}" for k, label in [("num_hidden_layers", "layers"), ("hidden_size", "wide"),
                      ("num_attention_heads", "heads"), ("max_position_embeddings", "tokens of context")] if k in config)  # fmt: skip
    splits = ", ".join(
        f"{k} {v['patients']} patients, {v['tokens']} tokens" for k, v in dataset.get("splits", {}).items()
    )
    rows = ["| outcome | rows | positive | AUROC (95%) | observed / expected | calibration slope | best baseline |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for o in report["outcomes"]:
        b = o["observed"]
        known = [x for x in o["baselines"] if x["auroc"] is not None]
        best = max(known, key=lambda x: x["auroc"]) if known else None
        ci = b["interval"].get("auroc")
        rows.append(f"| {o['name']} | {o['n']} | {o['positive']} | {number(b['auroc'])}"
                    f"{f' ({ci[0]:.3f} to {ci[1]:.3f})' if ci else ''} | {number(b['oe'], 2)} | {number(b['slope'], 2)} | "
                    f"{best['name'] + ' ' + number(best['auroc']) if best else '-'} |")  # fmt: skip
    alarms = [
        f"- {a['outcome']}, {a['subgroup']}: {report_groups.STATISTIC[a['statistic']]} (p after correction {a['p_adjusted']:.2g})" for a in report["alarms"]
    ]
    if not alarms:
        alarms = [
            f"- none, in {report['alarm_tests']} tests"
            if report["alarm_tests"]
            else "- no group could be judged: too few positives"
        ]
    if any(o["censored"] for o in report["outcomes"]):
        rows.append("\nFigures are of the forecasts that were followed to the horizon, each counted once. Weighted for those that were not:\n")
        rows.append("| outcome | followed too short | had it | observed / expected | AUROC |\n|---|---|---|---|---|")
        for o in report["outcomes"]:
            c = o.get("censoring_weighted") or {}
            rows.append(f"| {o['name']} | {o['censored']} | {percent_1(c.get('prevalence'))} | {number(c.get('oe'), 2)} | {number(c.get('auroc'))} |")
    return f"""# Model card: {report["checkpoint"]}

For research. Not a medical device; not for use in the care of any person.

## Model
- Decoder-only transformer over patient timelines, {config.get("architectures", ["?"])[0]} shape: {shape}
- model.safetensors sha256 {p["model_sha256"]}
- trained to step {trainer.get("step", "?")} ({trainer.get("targets_seen", "?")} targets), source commit {made.get("commit", "?")}
- continued from: {made.get("parent") or "nothing, trained from scratch"}

## Data
- trained on dataset {made.get("dataset_sha256", "?")}, de-identification level {made.get("deidentification", "?")}
- evaluated on dataset {p["dataset_sha256"]}{" (the same)" if p["dataset_sha256"] == made.get("dataset_sha256") else " (another one)"}, \
source {dataset.get("source", "?")}, de-identification level {report["deidentification"]}
- {splits}
- vocabulary sha256 {p["vocabulary_sha256"]}

## Uses
- Intended: research on forecasts from longitudinal records of populations like the training data's
- Out of scope: care of individual persons, populations or record systems it was not evaluated on, effects of treatments

## Results on held-out patients (recorded outcomes, risks before recalibration)
{chr(10).join(rows)}

Recalibration maps and thresholds, fitted on the tuning split alone: recalibration.json, sha256 {p["recalibration_sha256"]}.
{len(report["outcomes"])} outcomes, {report["limit"] or "all"} rows a split at most, {report["samples"]} futures a row, \
{report["bootstrap"]} resamples of patients, seed {report["seed"]}.

## Alarms for groups of patients
{chr(10).join(alarms)}

## Limits
{chr(10).join("- " + n for n in report["notes"]) or "- every outcome at hand was evaluated"}
- Intervals carry the chance of who was sampled, not the change of practice over time or between institutions.
"""
