"""Checks metrics.py against slow, direct definitions.  Prints "ok - name" or "not ok - name"; exit 1 on any failure."""

import sys

import numpy as np

import metrics

failed = False


def check(name, good, detail=""):
    global failed
    print(f"{'ok' if good else 'not ok'} - {name}" + ("" if good else f"\n    {detail}"))
    failed |= not good


def pairs_auroc(risk, p):
    """Every ordered pair of two different patients, weighted by the chance that the first is positive and the second is
    not."""
    won = all_pairs = 0.0
    for i in range(len(risk)):
        for j in range(len(risk)):
            if i != j:
                weight = p[i] * (1 - p[j])
                all_pairs += weight
                won += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return won / all_pairs


def direct_auprc(risk, p):
    """Sum over thresholds of precision times the gain in recall."""
    area = last = 0.0
    for t in sorted(set(risk), reverse=True):
        taken = risk >= t
        hits = p[taken].sum()
        area += hits / taken.sum() * (hits - last) / p.sum()
        last = hits
    return area


def close(a, b, limit=1e-9):
    return a is not None and abs(a - b) <= limit


def check_against_definitions(rng):
    for n, ties in [(30, False), (60, True), (151, True)]:
        risk = rng.uniform(size=n).round(1 if ties else 12)
        y = (rng.uniform(size=n) < 0.3).astype(float)
        y[:2] = [0, 1]
        p = rng.uniform(size=n)
        name = f"{n} patients, {'ties' if ties else 'no ties'}"
        check(f"AUROC is the share of pairs: {name}", close(metrics.auroc(risk, y), pairs_auroc(risk, y)))
        check(f"AUROC in expectation: {name}", close(metrics.auroc(risk, p), pairs_auroc(risk, p)))
        check(f"AUPRC is precision over recall: {name}", close(metrics.auprc(risk, y), direct_auprc(risk, y)))
        check(f"AUPRC of probabilities: {name}", close(metrics.auprc(risk, p), direct_auprc(risk, p)))
        check(f"Brier: {name}", close(metrics.brier(risk, y), sum((r - t) ** 2 for r, t in zip(risk, y)) / n))


def check_expectation_is_a_mean(rng):
    """Drawn labels scatter around the expectation."""
    p = rng.uniform(0.05, 0.6, 80)
    risk = np.clip(p + rng.normal(0, 0.2, 80), 0, 1)
    drawn = [(rng.uniform(size=80) < p).astype(float) for _ in range(600)]
    for name, limit in [("auroc", 0.01), ("brier", 0.005)]:
        statistic = getattr(metrics, name)
        mean = np.mean([statistic(risk, y) for y in drawn])
        check(f"{name} in expectation is the mean over drawn labels", abs(mean - statistic(risk, p)) < limit,
              f"{mean} and {statistic(risk, p)}")  # fmt: skip
    check("AUROC: perfect, reversed, constant",
          metrics.auroc([0.1, 0.2, 0.8], [0, 0, 1]) == 1 and metrics.auroc([0.9, 0.8, 0.1], [0, 0, 1]) == 0
          and metrics.auroc([0.5, 0.5, 0.5], [0, 0, 1]) == 0.5)  # fmt: skip


def check_calibration(rng):
    z = rng.normal(-1, 1.2, 40000)
    for slope, intercept in [(1, 0), (0.5, 0.3), (1.8, -0.7)]:
        y = (rng.uniform(size=z.size) < 1 / (1 + np.exp(-(slope * z + intercept)))).astype(float)
        risk = 1 / (1 + np.exp(-z))
        a, b = metrics.calibration(risk, y)
        good = abs(a - slope) < 0.06 and abs(b - intercept) < 0.08
        check(f"calibration slope {slope} and intercept {intercept} are recovered", good, f"{a}, {b}")
        a, b = metrics.calibration(risk, 1 / (1 + np.exp(-(slope * z + intercept))))
        good = abs(a - slope) < 1e-3 and abs(b - intercept) < 1e-3
        check(f"and to three digits from probabilities, {slope} and {intercept}", good, f"{a}, {b}")
    rows, error = metrics.calibration_bins(np.linspace(0, 1, 100), np.linspace(0, 1, 100) ** 2)
    check("bins: equal mass, in order, none lost",
          [r["n"] for r in rows] == [10] * 10 and all(a["risk"] < b["risk"] for a, b in zip(rows, rows[1:]))
          and close(sum(r["outcome"] * r["n"] for r in rows), (np.linspace(0, 1, 100) ** 2).sum()))  # fmt: skip
    check("expected calibration error", close(error, np.mean(np.linspace(0, 1, 100) - np.linspace(0, 1, 100) ** 2)))
    rows, _ = metrics.calibration_bins([0.1, 0.2, 0.3], [0, 0, 1])
    check("bins of three patients", [r["n"] for r in rows] == [1, 1, 1])
    risk, p = rng.uniform(size=50), rng.uniform(size=50)
    fpr, tpr = metrics.roc(risk, p)
    good = fpr[0] == tpr[0] == 0 and close(fpr[-1], 1) and close(tpr[-1], 1) and np.all(np.diff(fpr) >= 0) and np.all(np.diff(tpr) >= 0)
    check("ROC runs from (0, 0) to (1, 1)", good)


def check_undefined():
    one = [0.2, 0.4, 0.6]
    for y in [[0, 0, 0], [1, 1, 1]]:
        good = metrics.auroc(one, y) is None and metrics.auprc(one, y) is None and metrics.calibration(one, y) == (None, None)
        check(f"one class only, {y}: no AUROC, AUPRC or slope", good)
    check("one patient of unsure outcome has no AUROC", metrics.auroc([0.3], [0.5]) is None)
    check("one risk for all has no slope", metrics.calibration([0.3, 0.3, 0.3], [0, 1, 0]) == (None, None))
    check("perfect separation has no slope", metrics.calibration([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == (None, None))
    check("risks of 0 and 1 do not break the logit", np.all(np.isfinite(metrics.logit([0, 1]))))


def check_bootstrap(rng):
    covered, cohorts = 0, 100
    for _ in range(cohorts):
        x = rng.normal(0.4, 1, 80)
        box = metrics.bootstrap(lambda i: {"mean": float(x[i].mean())}, np.arange(80), 200, int(rng.integers(1 << 30)))
        covered += box["mean"][0] <= 0.4 <= box["mean"][1]
    check("a 95% interval covers about 95%", 0.86 <= covered / cohorts <= 1, f"{covered} of {cohorts}")
    x = np.repeat(rng.normal(0, 1, 25), 20)  # every patient has 20 equal rows: as much knowledge as 25 rows
    width = np.diff(metrics.bootstrap(lambda i: {"m": float(x[i].mean())}, np.repeat(np.arange(25), 20), 400, 1)["m"])[0]
    good = 0.6 < width / (2 * 1.96 * x.std() / 5) < 1.4
    check("patients are resampled, not rows", good, f"width {width}")
    again = [metrics.bootstrap(lambda i: {"m": float(x[i].mean())}, np.arange(500), 50, 7) for _ in range(2)]
    check("the same seed gives the same interval", again[0] == again[1])
    boxes = metrics.bootstrap(lambda i: {"none": None, "rare": None if i[0] % 2 else 1.0}, np.arange(20), 50, 1)
    check("what is mostly undefined has no interval", boxes == {"none": None, "rare": None})


rng = np.random.default_rng(20)
check_against_definitions(rng)
check_expectation_is_a_mean(rng)
check_calibration(rng)
check_undefined()
check_bootstrap(rng)
sys.exit(failed)
