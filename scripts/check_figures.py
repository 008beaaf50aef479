"""Checks the figures of an outcome, and of simulated years, that check_metrics.py does not: against scikit-learn and against
counts made one by one.  Prints "ok - name" or "not ok - name"; exit 1 on any failure."""


import numpy as np
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

import futures
import metrics
import outcome
import recalibrate
import report_page
import sequential
from checks import check, close, finish

HORIZON = 1000.0


def line(risk, y):
    """scikit-learn's regression of y on the log-odds: slope, intercept."""
    m = LogisticRegression(penalty=None, tol=1e-12, max_iter=1000).fit(metrics.logit(risk)[:, None], y)
    return m.coef_[0, 0], m.intercept_[0]


def followed(rng, n, truth=None):
    """Rows with follow-up: the outcome comes at a time, observation may end before."""
    risk = np.round(metrics.expit(rng.normal(-0.8, 1.0, n)), 3)
    time = -np.log(rng.uniform(size=n)) / -np.log1p(-risk) * HORIZON
    end = rng.exponential(2.5 * HORIZON, n)
    y = np.where((time <= HORIZON) & (time <= end), 1, np.where(end < HORIZON, -1, 0))
    columns = {
        "risk": risk, "outcome": y, "patient_key": np.repeat(np.arange(n // 2), 2), "index_minutes": np.zeros(n),
        "mc_se": rng.uniform(0.01, 0.03, n), "event_minutes": np.where(y == 1, time, np.nan), "censor_minutes": end,
        "death_minutes": np.full(n, np.nan),
    }  # fmt: skip
    if truth is not None:
        columns["true_risk"] = truth
    return outcome.Rows(columns, {"GROUP": rng.choice(["A", "B"], n)})


def kaplan_meier(last, censored):
    """Probability of being followed up to each row's time, row by row."""
    g = np.ones(last.size)
    for i in range(last.size):
        for t in sorted(set(last[censored & (last < last[i])])):
            decided_first = (~censored & (last == t)).sum()
            g[i] *= 1 - (censored & (last == t)).sum() / ((last >= t).sum() - decided_first)
    return g


def check_outcome(rng):
    rows, tuning = followed(rng, 400), followed(rng, 600)
    record = recalibrate.fit(tuning.risk, tuning.y, (tuning.y >= 0).astype(float), 10)
    known = tuning.y >= 0
    slope, intercept = line(tuning.risk[known], tuning.y[known])
    check("a recalibration map is scikit-learn's regression", close(record["slope"], slope, 1e-5) and close(record["intercept"], intercept, 1e-5))
    o = outcome.evaluate("o", {"horizon_minutes": str(HORIZON)}, rows, recalibrate.seal(record), n_bootstrap=20, seed=3)
    known = rows.y >= 0
    y, risk = rows.y[known], rows.risk[known]
    mapped = metrics.expit(intercept + slope * metrics.logit(risk))
    check("rows, patients, positives, censored, mean risk, mean error of sampling",
          (o["n"], o["patients"], o["positive"], o["censored"]) == (400, 200, (y == 1).sum(), (~known).sum())
          and close(o["mean_risk"], rows.risk.mean()) and close(o["mean_mc_se"], rows.mc_se.mean()))  # fmt: skip
    check("recalibrated: AUROC, Brier, log loss are scikit-learn's", close(o["recalibrated"]["auroc"], sk.roc_auc_score(y, mapped))
          and close(o["recalibrated"]["brier"], sk.brier_score_loss(y, mapped), 1e-6)
          and close(o["recalibrated"]["log_loss"], sk.log_loss(y, mapped), 1e-5))  # fmt: skip
    alert = mapped >= o["threshold"]["value"]
    check("what the threshold finds is scikit-learn's", close(o["threshold"]["tpr"], sk.recall_score(y, alert))
          and close(o["threshold"]["ppv"], sk.precision_score(y, alert)) and close(o["threshold"]["alerts_per_100"], 100 * alert.mean()))  # fmt: skip
    good = True
    for b in o["budgets"]:
        alert = mapped >= b["threshold"]
        if not alert.any():
            good &= b["tpr"] == 0 and b["ppv"] is None and b["lead_days"] is None
            continue
        days = rows.event[known][alert & (y == 1)] / 1440
        good &= close(b["tpr"], sk.recall_score(y, alert)) and close(b["ppv"], sk.precision_score(y, alert)) and close(b["lead_days"], np.median(days))
    check("budgets: found, right, days ahead, one by one", good and len(o["budgets"]) == len(recalibrate.BUDGETS), str(o["budgets"]))

    last = np.where(rows.y == 1, rows.event, np.minimum(rows.censor, HORIZON))
    quarter = np.searchsorted(np.quantile(rows.risk, [0.25, 0.5, 0.75]), rows.risk)
    w = np.zeros(400)
    for q in range(4):
        i = quarter == q
        w[i] = np.where(known[i], 1 / kaplan_meier(last[i], ~known[i]), 0)
    c = o["censoring_weighted"]
    theirs = [sk.roc_auc_score(y, risk, sample_weight=w[known]), sk.brier_score_loss(y, risk, sample_weight=w[known]), np.average(y, weights=w[known])]
    check("weighted for censoring: AUROC, Brier and share are scikit-learn's under Kaplan and Meier's weights",
          all(close(c[k], v, 1e-7) for k, v in zip(("auroc", "brier", "prevalence"), theirs, strict=True)), f"{c} {theirs}")  # fmt: skip
    won = total = 0.0
    for i in np.flatnonzero(rows.y == 1):
        for j in range(400):
            if last[j] > last[i] or (last[j] == last[i] and rows.y[j] != 1):
                total += w[i] ** 2
                won += w[i] ** 2 * (rows.risk[i] > rows.risk[j]) + w[i] ** 2 * 0.5 * (rows.risk[i] == rows.risk[j])
    check("concordance with those weights, pair by pair", close(o["concordance"], won / total, 1e-7), f"{o['concordance']} {won / total}")

    s = next(s for s in o["subgroups"] if s["label"] == "B")
    mine, cut = rows.groups["GROUP"][known] == "B", o["threshold"]["value"]
    gap = {t["statistic"]: t["gap"] for t in s["tests"]}
    excess = [sk.recall_score(y[i], mapped[i] >= cut) - mapped[i][mapped[i] >= cut].sum() / mapped[i].sum() for i in (mine, ~mine)]
    check("gaps of a group: observed over expected, slope, sensitivity beyond what its risks promise",
          close(gap["log_oe"], np.log(y[mine].sum() / mapped[mine].sum() / (y[~mine].sum() / mapped[~mine].sum())), 1e-6)
          and close(gap["slope"], line(mapped[mine], y[mine])[0] - line(mapped[~mine], y[~mine])[0], 1e-3)
          and close(gap["tpr_excess"], excess[0] - excess[1], 1e-6), str(gap))  # fmt: skip
    check("a group's rows, positives, share and mean risk", (s["n"], s["positive"]) == (mine.sum(), y[mine].sum())
          and close(s["prevalence"], y[mine].mean()) and close(s["mean_risk"], mapped[mine].mean(), 1e-6))  # fmt: skip


def check_truth(rng):
    """In expectation over true risks: the mean of the figures of all labels that could be drawn, of eight patients."""
    truth, risk = rng.uniform(0.1, 0.9, 8), rng.uniform(0.05, 0.95, 8)
    rows = outcome.Rows({"risk": risk, "outcome": (truth > 0.5).astype(int), "patient_key": np.arange(8), "true_risk": truth})
    o = outcome.evaluate("o", {"horizon_minutes": "1440"}, rows, n_bootstrap=10)
    mean = {"brier": 0.0, "log_loss": 0.0, "positives": 0.0}
    for k in range(256):
        y = np.array([k >> i & 1 for i in range(8)])
        chance = np.prod(np.where(y, truth, 1 - truth))
        mean["brier"] += chance * np.mean((risk - y) ** 2)
        mean["log_loss"] += chance * sk.log_loss(y, risk, labels=[0, 1])
        mean["positives"] += chance * y.sum()
    e = o["expected"]
    check("in expectation: Brier, log loss, observed over expected over all 256 labels", close(e["brier"], mean["brier"])
          and close(e["log_loss"], mean["log_loss"]) and close(e["oe"], mean["positives"] / risk.sum()), f"{e} {mean}")  # fmt: skip
    check("error against the truth", close(o["rmse"], np.sqrt(np.mean((risk - truth) ** 2))) and close(o["mean_true_risk"], truth.mean()))


def check_page():
    """Forecasts whose follow-up ended early are not told as patients who had nothing."""
    rows = outcome.Rows({"risk": np.linspace(0.1, 0.5, 9), "outcome": np.array([0, 0, *[-1] * 7]), "patient_key": np.arange(9)})
    told = report_page.in_short(outcome.evaluate("o", {"horizon_minutes": "1440"}, rows, n_bootstrap=10))
    check("no weighted line where nothing of the follow-up is known", "by weight" not in report_page.basis_table(outcome.evaluate("o", {"horizon_minutes": "1440"}, rows, n_bootstrap=10)))
    left = np.random.default_rng(7)
    risk, event, gone = left.uniform(0.1, 0.6, 400), left.uniform(0, 4000, 400), left.uniform(300, 6000, 400)
    y = np.where((event < 1440) & (event < gone), 1, np.where(gone < 1440, -1, 0))
    many = outcome.Rows({"risk": risk, "outcome": y, "patient_key": np.arange(400), "event_minutes": np.where(y == 1, event, np.nan),
                         "censor_minutes": gone, "death_minutes": np.full(400, np.nan)})  # fmt: skip
    o = outcome.evaluate("o", {"horizon_minutes": "1440"}, many, n_bootstrap=10)
    page, short, known = report_page.outcome_section(o), report_page.in_short(o), (y >= 0).sum()
    counted, weighted, share = o["observed"]["oe"], o["censoring_weighted"]["oe"], o["censoring_weighted"]["prevalence"]
    row = [r.split("<td>") for r in page.split("<tr>") if r.startswith("<td>those followed") or r.startswith("<td>all, by weight")]
    check("counted and weighted stand side by side, each by its name", abs(counted - weighted) > 0.02 and [x[5].removesuffix("</td>") for x in row]
          == [f"{counted:.2f}", f"{weighted:.2f}"] and f"{100 * (y == 1).sum() / known:.1f}%" in row[0][3] and f"{100 * share:.1f}%" in row[1][3]
          and f"{(y < 0).sum()} of 400 forecasts were not followed" in page, page[:900])  # fmt: skip
    check("in short: who was followed too short, and what they may change", f"of {known} patients followed long enough ({(y < 0).sum()} more were not)" in short
          and f"an estimate: {100 * share:.1f}% had it" in short, short)  # fmt: skip
    check("in short: of those whose outcome is known", "0 of 2 " in told and "9" not in told, told)
    rng = np.random.default_rng(5)
    truth = rng.uniform(0.1, 0.4, 40)
    y = (rng.uniform(size=40) < truth).astype(float)
    rows = outcome.Rows({"risk": rng.uniform(0.1, 0.4, 40), "outcome": y, "patient_key": np.arange(40), "true_risk": truth})
    o = outcome.evaluate("o", {"horizon_minutes": "1440"}, rows, None, {"lucky": 0.1 + 0.8 * y, "dull": truth**2}, n_bootstrap=10)
    told = report_page.in_short(o)
    check("in short: no baseline that had luck with the labels is better than the best possible", "dull: " in told and "lucky" not in told
          and f"dull: {100 * o['auroc_true_risk']:.0f}%; the best possible: {100 * o['auroc_true_risk']:.0f}%" in told, told)  # fmt: skip
    patient, missed = np.repeat(np.arange(60), 5), 0
    for _ in range(200):  # whole patients have it or have it not
        y = np.repeat((rng.uniform(size=60) < 0.3).astype(float), 5)
        points = report_page.calibration_points(np.full(300, 0.3), y, patient)
        missed += not points[0][2] <= 0.3 <= points[0][3]
    check("bars of a calibration plot count patients, not their rows", len(points) == 1 and missed <= 20, f"{missed} of 200")
    y = (rng.uniform(size=300) < 0.3).astype(float)
    alone = report_page.calibration_points(np.full(300, 0.3), y, np.arange(300))[0]
    check("and are Wilson's where each has one", np.allclose(alone[2:4], metrics.wilson(y.sum(), 300)), str(alone))
    draws = rng.integers(0, 15, (50, 15))
    box = sequential.mean(np.zeros(15), draws)["interval"]
    check("that none of 15 was named right does not say that none ever is", box[0] == 0 and 0.19 < box[1] < 0.22, str(box))
    values = rng.uniform(size=15)
    check("chances are resampled", np.allclose(sequential.mean(values, draws)["interval"], np.percentile(values[draws].mean(1), [2.5, 97.5])))
    check("in short: with the interval", f"{100 * o['auroc_interval'][0]:.0f} to {100 * o['auroc_interval'][1]:.0f}%" in told, told)


def check_futures(rng):
    def year():
        days = np.sort(rng.uniform(0, 365, rng.integers(2, 9)))
        return [(float(d), "lab", str(c)) for d, c in zip(days, rng.choice(list("abcde"), days.size), strict=True)]

    recorded, simulated = [year() for _ in range(12)], [year() for _ in range(12)]
    r = futures.realism(recorded, simulated, 4, swaps=40)
    value = {t["distance"]: t["value"] for t in r["tests"]}
    codes = [[c for events in side for _, _, c in events] for side in (recorded, simulated)]
    share = [{c: k.count(c) / len(k) for c in "abcde"} for k in codes]
    check("distance in codes", close(value["codes"], sum(abs(share[0][c] - share[1][c]) for c in "abcde") / 2))
    pairs = []
    for side in (recorded, simulated):
        sets = [{c for _, _, c in events} for events in side]
        count = [sum({a, b} <= s for s in sets) for a in "abcde" for b in "abcde" if a < b]
        pairs.append(np.array(count) / sum(count))
    check("distance in codes that come together", close(value["codes together"], np.abs(pairs[0] - pairs[1]).sum() / 2, 1e-6))
    length = [[len(events) for events in side] for side in (recorded, simulated)]
    check("events a year", close(value["events a year"], abs(np.mean(length[0]) - np.mean(length[1]))) and close(r["events_recorded"], np.mean(length[0])))
    gaps = [[b - a for events in side for a, b in zip([0.0] + [round(d, 4) for d, _, _ in events], [round(d, 4) for d, _, _ in events], strict=False) if b - a > 0.02]
            for side in (recorded, simulated)]  # fmt: skip

    def apart(a, b):
        return max(abs(np.mean([x <= t for x in a]) - np.mean([x <= t for x in b])) for t in a + b)

    # Three seconds are one moment; 28.5 minutes are no gap, 29.4 are.
    moments = [(d, "lab", "a") for d in (0.50003, 0.5, 0.5204, 0.5402, 2.25)]
    between = [round(g, 7) for g in futures.gaps_of(moments)]
    check("gaps of moments: to 9 seconds, and none of half an hour", between == [0.5, 0.0204, 1.7098], str(between))
    check("gaps and the spread of events a year: largest distance of two distributions", close(value["gaps"], apart(*gaps))
          and close(value["spread of events a year"], apart(*length)))  # fmt: skip
    first = r["most_unlike"][0]
    worst = max("abcde", key=lambda c: abs(share[0][c] - share[1][c]))
    check("the code whose share differs most", first["code"] == worst and close(first["share_recorded"], share[0][worst]))
    chance = np.random.default_rng(4)
    dealt = [chance.integers(0, 2, 12) for _ in range(40)]
    other = [abs(np.mean([length[k][i] for i, k in enumerate(d)]) - np.mean([length[1 - k][i] for i, k in enumerate(d)])) for d in dealt]
    test = next(t for t in r["tests"] if t["distance"] == "events a year")
    check("its p counts the swaps that are as far apart", close(test["p"], (1 + sum(x >= test["value"] - 1e-12 for x in other)) / 41)
          and close(test["by_chance"], np.mean(other)))  # fmt: skip


rng = np.random.default_rng(21)
check_outcome(rng)
check_truth(rng)
check_page()
check_futures(rng)
finish()
