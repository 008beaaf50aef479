"""Checks metrics.py against slow, direct definitions.  Prints "ok - name" or "not ok - name"; exit 1 on any failure."""

import math

import numpy as np
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

import metrics
from checks import check, close, finish



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
    tied = np.repeat([0.25, 0.5, 0.75], [40, 25, 35])
    late = np.concatenate([np.arange(n) >= n / 2 for n in (40, 25, 35)]).astype(float)
    found = []
    for i in (np.arange(100), np.arange(100)[::-1], np.random.default_rng(3).permutation(100)):
        rows, error = metrics.calibration_bins(tied[i], late[i])
        found.append((metrics.weighted_ece(tied[i], late[i], np.ones((1, 100)))[0], error, [r["n"] for r in rows]))
    check("bins: rows of one risk are in one, whatever their order",  # 40 x 0.5 - 0.25, 25 x 0.48 - 0.5, 35 x 17/35 - 0.75
          all(close(a, 0.1975) and close(b, 0.1975) and n == [40, 25, 35] for a, b, n in found), str(found))  # fmt: skip
    risk, p = rng.uniform(size=50), rng.uniform(size=50)
    fpr, tpr = metrics.roc(risk, p)
    good = (
        fpr[0] == tpr[0] == 0
        and close(fpr[-1], 1)
        and close(tpr[-1], 1)
        and np.all(np.diff(fpr) >= 0)
        and np.all(np.diff(tpr) >= 0)
    )
    check("ROC runs from (0, 0) to (1, 1)", good)


def check_undefined():
    one = [0.2, 0.4, 0.6]
    for y in [[0, 0, 0], [1, 1, 1]]:
        good = (
            metrics.auroc(one, y) is None
            and metrics.auprc(one, y) is None
            and metrics.calibration(one, y) == (None, None)
        )
        check(f"one class only, {y}: no AUROC, AUPRC or slope", good)
    check("one patient of unsure outcome has no AUROC", metrics.auroc([0.3], [0.5]) is None)
    check("one risk for all has no slope", metrics.calibration([0.3, 0.3, 0.3], [0, 1, 0]) == (None, None))
    check("classes that meet in one risk are told apart by it", metrics.separated([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]) and
          metrics.separated([0.9, 0.5, 0.5, 0.1], [0, 0, 1, 1]) and not metrics.separated([0.1, 0.6, 0.5, 0.9], [0, 0, 1, 1]))  # fmt: skip
    check("nor have classes that meet in one risk", metrics.calibration([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]) == (None, None))
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
    width = np.diff(metrics.bootstrap(lambda i: {"m": float(x[i].mean())}, np.repeat(np.arange(25), 20), 400, 1)["m"])[
        0
    ]
    good = 0.6 < width / (2 * 1.96 * x.std() / 5) < 1.4
    check("patients are resampled, not rows", good, f"width {width}")
    again = [metrics.bootstrap(lambda i: {"m": float(x[i].mean())}, np.arange(500), 50, 7) for _ in range(2)]
    check("the same seed gives the same interval", again[0] == again[1])
    boxes = metrics.bootstrap(lambda i: {"none": None, "rare": None if i[0] % 2 else 1.0}, np.arange(20), 50, 1)
    check("what is mostly undefined has no interval", boxes == {"none": None, "rare": None})


def check_intervals_by_hand(rng):
    values = rng.permutation(np.arange(1001.0))
    check("an interval is the middle 95%", metrics.interval(values) == [25.0, 975.0], str(metrics.interval(values)))
    values[:101] = np.nan
    check("none where more than a tenth is undefined", metrics.interval(values) is None)
    values[0] = 1.0
    check("one where a tenth is", metrics.interval(values) is not None)
    for hits, n in [(0, 20), (3, 10), (10, 10)]:  # Wilson's bounds are where (p - hits / n)^2 = z^2 p (1 - p) / n
        box = np.array(metrics.wilson(hits, n))
        off = (box - hits / n) ** 2 - 1.96**2 * box * (1 - box) / n
        good = np.abs(off).max() < 1e-12 and -1e-12 <= box[0] <= hits / n <= box[1] <= 1 + 1e-12 and box[0] < box[1]
        check(f"Wilson's interval of {hits} in {n}", good, str(box))
    x = rng.normal(size=31)
    t = 0.5 / x.std(ddof=1)
    p, direct = metrics.p_value(-0.5, x, 11), 2 * stats.t.sf(t, 1 / (1 / 10 + 1 / 30))
    check("few observations: Student's t with what is left of their freedom", close(p, direct), f"{p} and {direct}")
    lost = np.r_[x, np.full(4, np.nan)]
    check("no p-value where more than a tenth is undefined", metrics.p_value(0.5, lost) is None)


def check_scale_of_weights(rng):
    """Only the ratios of weights matter."""
    risk = rng.beta(1.2, 4, 300).round(2)
    y = (rng.uniform(size=300) < 0.5 * risk + 0.1).astype(float)
    W = rng.exponential(size=(2, 300))
    one, three = metrics.figures(risk, y, W, 0.3), metrics.figures(risk, y, 3 * W, 0.3)
    for name in one:
        check(f"{name}: three times all weights changes nothing", np.allclose(one[name], three[name], rtol=1e-6),
              f"{one[name]} and {three[name]}")  # fmt: skip
    alert = risk >= 0.3
    promised = (W[0] * risk)[alert].sum() / (W[0] * risk).sum()
    check("what the risks promise of alerts is their share above the threshold", close(one["tpr_expected"][0], promised))


def check_weights(rng):
    """Under whole and real weights every figure is scikit-learn's, or that of rows written out so many times."""
    n = 240
    risk = np.clip(rng.beta(1.2, 4, n).round(2), 0.01, 0.99)
    y = (rng.uniform(size=n) < risk**0.8).astype(float)
    counts, reals = rng.integers(0, 4, n).astype(float), rng.exponential(size=n)
    W = np.vstack([np.ones(n), counts, reals])
    f = metrics.figures(risk, y, W, 0.3)
    alert = risk >= 0.3
    for k, w in enumerate(W):
        rows = LogisticRegression(penalty=None, tol=1e-10, max_iter=1000)
        rows.fit(metrics.logit(risk)[:, None], y, sample_weight=w)
        theirs = {
            "auroc": sk.roc_auc_score(y, risk, sample_weight=w),
            "auprc": sk.average_precision_score(y, risk, sample_weight=w),
            "brier": sk.brier_score_loss(y, risk, sample_weight=w),
            "log_loss": sk.log_loss(y, risk, sample_weight=w),
            "oe": (w * y).sum() / (w * risk).sum(),
            "tpr": sk.recall_score(y, alert, sample_weight=w),
            "ppv": sk.precision_score(y, alert, sample_weight=w),
            "specificity": sk.recall_score(1 - y, ~alert, sample_weight=w),
            "alerts_per_100": 100 * w[alert].sum() / w.sum(),
        }
        for name, value in theirs.items():
            check(f"{name} is scikit-learn's, weights {k}", close(f[name][k], value), f"{f[name][k]} and {value}")
        for name, value in [("slope", rows.coef_[0, 0]), ("intercept", rows.intercept_[0])]:
            check(f"{name} is scikit-learn's, weights {k}", close(f[name][k], value, 1e-4), f"{f[name][k]} and {value}")
    fpr, tpr = metrics.roc(risk, y)
    theirs = sk.roc_curve(y, risk, drop_intermediate=False)
    check("ROC is scikit-learn's", np.allclose(fpr, theirs[0]) and np.allclose(tpr, theirs[1]))
    i = np.repeat(np.arange(n), counts.astype(int))
    often = metrics.figures(risk[i], y[i], np.ones((1, i.size)), 0.3)
    for name in ["auroc", "auprc", "brier", "log_loss", "oe", "slope", "intercept", "tpr", "ppv"]:
        check(f"{name}: a weight of two is the row twice", close(f[name][1], often[name][0], 1e-7))


def check_smooth_calibration(rng):
    x = np.linspace(-4, 4, 401)
    columns, knots = metrics._spline(x), np.quantile(x, [0.05, 0.95])
    tails = [np.abs(np.diff(columns[i], 2, axis=0)).max() for i in (x <= knots[0], x >= knots[1])]
    check("a restricted spline is straight beyond its knots", columns.shape[1] == 4 and max(tails) < 1e-10, str(tails))
    risk = 1 / (1 + np.exp(-rng.normal(-1, 1, 30000)))
    for name, p in [("right", risk), ("too high by a half", risk / 1.5), ("bent", risk**2)]:
        ici = metrics.weighted_ici(risk, p, np.ones((1, risk.size)))[0]
        true = np.abs(risk - p).mean()
        check(f"ICI of risks that are {name}", abs(ici - true) < 0.004, f"{ici} and {true}")
    y = rng.uniform(size=500)
    rows, error = metrics.calibration_bins(risk[:500], y)
    check(
        "ECE under weights of one is that of the bins",
        close(metrics.weighted_ece(risk[:500], y, np.ones((1, 500)))[0], error),
    )


def check_decisions(rng):
    y, risk = (rng.uniform(size=200) < 0.3).astype(float), rng.uniform(size=200)
    for r in metrics.net_benefit(risk, y, [0.1, 0.25, 0.5]):
        t = r["threshold"]
        tp, fp = ((risk >= t) & (y == 1)).sum(), ((risk >= t) & (y == 0)).sum()
        good = close(r["model"], (tp - fp * t / (1 - t)) / 200) and close(
            r["all"], (y.sum() - (1 - y).sum() * t / (1 - t)) / 200
        )
        check(f"net benefit at {t} counts right and needless alerts", good)
    row = metrics.net_benefit([0.5, 0.5, 0.2], [1, 1, 0], [0.5])[0]
    check("a risk at the threshold alerts", close(row["model"], 2 / 3) and close(row["all"], 1 / 3), str(row))


def check_follow_up(rng):
    """Kaplan and Meier by hand; then censoring that hides a third, which the weights undo."""
    last, censored = np.array([1, 2, 2, 3, 5, 5.0]), np.array([0, 1, 0, 1, 0, 0], bool)
    # At 2 one is decided before the other is censored: 4 at risk, G = 3/4; at 3, 3 at risk, G = 3/4 * 2/3 = 1/2.
    w = metrics.censoring_weights(last, censored)
    check("Kaplan-Meier weights by hand", np.allclose(w, [1, 0, 1, 0, 2, 2]), str(w))
    # One stratum more, of which half leaves at once.
    w = metrics.censoring_weights(np.r_[last, 1, 5], np.r_[censored, True, False], np.r_[np.zeros(6), 1, 1])
    check("each stratum has its own", np.allclose(w, [1, 0, 1, 0, 2, 2, 0, 2]), str(w))
    n = 6000
    risk = rng.uniform(0.05, 0.7, n)
    time = -np.log(rng.uniform(size=n)) / (-np.log1p(-risk))  # the outcome within 1 has probability `risk`
    end = -np.log(rng.uniform(size=n)) / 0.5
    y = np.where((time <= 1) & (time <= end), 1, np.where(end < 1, -1, 0))
    w = metrics.censoring_weights(np.minimum(np.minimum(time, end), 1), y < 0)
    plain, mended = (y[y >= 0]).mean(), (w[y >= 0] @ y[y >= 0]) / w.sum()
    check("weights undo censoring", abs(mended - (time <= 1).mean()) < 0.015 < abs(plain - (time <= 1).mean()),
          f"{mended} and {plain}, not {(time <= 1).mean()}")  # fmt: skip
    small = slice(0, 120)
    last, event = np.minimum(np.minimum(time, end), 1)[small], (y == 1)[small]
    won = total = 0.0
    for i in range(120):
        for j in range(120):
            if event[i] and w[i] > 0 and (last[j] > last[i] or (last[j] == last[i] and not event[j])):
                total += w[i] ** 2
                won += w[i] ** 2 * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    got = metrics.concordance(risk[small], last, event, w[small])
    ends = metrics.concordance([0.7, 0.2, 0.9], [5, 5, 3], [1, 0, 0], np.ones(3))
    check("who is without it when another gets it is of the pair, who was lost before is not", ends == 1, str(ends))
    check("time-dependent concordance counts pairs", close(got, won / total), f"{got} and {won / total}")


def check_multiple_tests(rng):
    for _ in range(50):
        p = rng.uniform(size=12) ** 3
        order = sorted(range(12), key=lambda i: p[i])
        k = max([r + 1 for r in range(12) if p[order[r]] <= 0.05 * (r + 1) / 12], default=0)
        if set(np.flatnonzero(metrics.benjamini_hochberg(p))) != set(order[:k]):
            check("Benjamini-Hochberg", False, str(p))
            return
    check("Benjamini-Hochberg rejects the k smallest", True)
    x = rng.normal(0.5, 1, 400)
    p = metrics.p_value(0.1, x / 20)
    check("a p-value is that of a normal", close(p, 2 * 0.5 * math.erfc(0.1 / (x / 20).std(ddof=1) / 2**0.5)), str(p))


rng = np.random.default_rng(20)
check_against_definitions(rng)
check_expectation_is_a_mean(rng)
check_calibration(rng)
check_undefined()
check_bootstrap(rng)
check_weights(rng)
check_intervals_by_hand(np.random.default_rng(21))
check_scale_of_weights(np.random.default_rng(22))
check_smooth_calibration(rng)
check_decisions(rng)
check_follow_up(rng)
check_multiple_tests(rng)
finish()
