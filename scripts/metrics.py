"""Statistics of predicted risks: discrimination, calibration, decisions, intervals.

Arrays are one-dimensional, one element per patient and index time: `risk` in [0, 1], `y` 0 or 1, or a true probability
in [0, 1].  A true probability p counts in expectation, as p of a positive and 1 - p of a negative: sampled labels of a
thousand patients would move an AUROC by more than the differences that matter.

Figures are computed under many weightings of the rows at once: a bootstrap resample of patients is a row of whole
weights, inverse probabilities of censoring are a row of real ones, and the plain figure has weights of one.
"""

import math

import numpy as np
from scipy import stats


def logit(p, floor=1e-6):
    p = np.clip(np.asarray(p, float), floor, 1 - floor)
    return np.log(p / (1 - p))


def expit(z):
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z, float)))


def _divide(a, b):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / b, np.nan)


# ---- figures under weights: W (B, n) -> (B) -----------------------------------------------------------------------


def _by_risk(risk, a):
    """Sums of the columns of a (B, n) over groups of equal risk, in ascending order."""
    order = np.argsort(risk, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(risk[order]) > 0])
    return np.add.reduceat(a[:, order], start, axis=1)


def weighted_auroc(risk, y, W):
    """Mann-Whitney, ties count half; of a probability y the pair of a row with itself is left out."""
    pos, neg = _by_risk(risk, W * y), _by_risk(risk, W * (1 - y))
    below = np.cumsum(neg, axis=1) - neg
    own = W @ (y * (1 - y))
    area = np.sum(pos * (below + 0.5 * neg), axis=1) - 0.5 * own
    return _divide(area, pos.sum(1) * neg.sum(1) - own)


def weighted_auprc(risk, y, W):
    """Average precision (the step form, not a trapezoid)."""
    hits, taken = (np.cumsum(_by_risk(risk, a)[:, ::-1], axis=1) for a in (W * y, W))
    gain = np.diff(hits, axis=1, prepend=0)
    precision = np.where(taken > 0, hits / np.where(taken > 0, taken, 1), 0)
    out = _divide(np.sum(precision * gain, axis=1), hits[:, -1])
    return np.where(taken[:, -1] > hits[:, -1], out, np.nan)


def weighted_brier(risk, y, W):
    return _divide(W @ (y * (1 - risk) ** 2 + (1 - y) * risk**2), W.sum(1))


def weighted_log_loss(risk, y, W):
    r = np.clip(risk, 1e-6, 1 - 1e-6)
    return _divide(-(W @ (y * np.log(r) + (1 - y) * np.log1p(-r))), W.sum(1))


def weighted_oe(risk, y, W):
    """Observed over expected: the sum of outcomes over the sum of risks."""
    return _divide(W @ y, W @ risk)


def fit_logistic(X, y, W, start):
    """Weighted logistic regressions of y on the columns of X (n, k), one per row of W, by Newton's method.
    (B, k); NaN where it does not converge: classes that are apart have no finite slope."""
    n, k = X.shape
    beta = np.repeat(np.asarray(start, float)[None], W.shape[0], 0)
    outer = (X[:, :, None] * X[:, None, :]).reshape(n, k * k)
    done = np.zeros(W.shape[0], bool)
    for _ in range(30):
        go = np.flatnonzero(~done)
        if not go.size:
            break
        p = expit(beta[go] @ X.T)
        gradient = (W[go] * (y - p)) @ X
        hessian = ((W[go] * p * (1 - p)) @ outer).reshape(-1, k, k)
        scale = np.maximum(np.trace(hessian, axis1=1, axis2=2) / k, 1e-300)
        hessian += 1e-12 * scale[:, None, None] * np.eye(k)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        size = np.abs(step).max(axis=1)
        step *= np.minimum(1, 2 / np.maximum(size, 1e-300))[:, None]
        beta[go] += step
        done[go] = (size < 1e-8) | ~np.isfinite(size) | (np.abs(beta[go]).max(axis=1) > 1e3)
    beta[~done | (np.abs(beta).max(axis=1) > 1e3)] = np.nan
    return beta


def weighted_calibration(risk, y, W):
    """Slopes and intercepts of the logistic regression of y on logit(risk); 1 and 0 are perfect (Cox 1958)."""
    x = logit(risk)
    nothing = np.full(W.shape[0], np.nan)
    if np.ptp(x) < 1e-9:
        return nothing, nothing
    beta = fit_logistic(np.column_stack([np.ones_like(x), x]), y, W, [0.0, 1.0])
    beta[np.abs(beta[:, 1]) > 50] = np.nan
    one_class = (W @ y <= 0) | (W @ (1 - y) <= 0)
    beta[one_class] = np.nan
    return beta[:, 1], beta[:, 0]


def _spline(x, quantiles=(0.05, 0.35, 0.65, 0.95)):
    """Columns 1, x and a restricted cubic spline of x with four knots (Harrell); a line when knots coincide."""
    k = np.quantile(x, quantiles)
    columns = [np.ones_like(x), x]
    if np.all(np.diff(k) > 1e-6):
        cube = [np.maximum(x - t, 0) ** 3 for t in k]
        for j in range(2):
            bent = cube[j] - (cube[2] * (k[3] - k[j]) - cube[3] * (k[2] - k[j])) / (k[3] - k[2])
            columns.append(bent / (k[3] - k[0]) ** 2)
    return np.column_stack(columns)


def calibration_curve(risk, y, W):
    """What a smooth curve (logistic, spline of logit(risk)) says the outcome is at every row's risk: (B, n)."""
    x = logit(risk)
    X = _spline(x)
    return expit(fit_logistic(X, y, W, np.r_[0.0, 1.0, np.zeros(X.shape[1] - 2)]) @ X.T)


def weighted_ici(risk, y, W):
    """Integrated calibration index: mean distance of the risk from the smooth curve (Austin and Steyerberg 2019)."""
    if np.ptp(logit(risk)) < 1e-9:
        return np.full(W.shape[0], np.nan)
    return _divide(np.sum(W * np.abs(risk - calibration_curve(risk, y, W)), axis=1), W.sum(1))


def _bins(risk, bins):
    """The rows in ascending order, and where each of the bins of equal size begins in it; rows of one risk stay together,
    or the order in which they came would decide what is averaged."""
    order = np.argsort(risk, kind="stable")
    start = np.cumsum([0] + [p.size for p in np.array_split(order, min(bins, risk.size)) if p.size])[:-1]
    return order, np.unique(np.searchsorted(risk[order], risk[order][start]))


def weighted_ece(risk, y, W, bins=10):
    """Expected calibration error over bins of equal size (of the rows, whatever their weights)."""
    order, start = _bins(risk, bins)
    return _divide(np.abs(np.add.reduceat((W * (risk - y))[:, order], start, axis=1)).sum(1), W.sum(1))


def weighted_decisions(risk, y, W, threshold):
    """What alerts at risk >= threshold find: sensitivity, the share that the risks themselves promise, specificity,
    positive predictive value, alerts per 100 rows."""
    alert = (risk >= threshold).astype(float)
    return {
        "tpr": _divide(W @ (y * alert), W @ y),
        "tpr_expected": _divide(W @ (risk * alert), W @ risk),
        "specificity": _divide(W @ ((1 - y) * (1 - alert)), W @ (1 - y)),
        "ppv": _divide(W @ (y * alert), W @ alert),
        "alerts_per_100": 100 * _divide(W @ alert, W.sum(1)),
    }


FIGURES = ["auroc", "auprc", "brier", "log_loss", "oe", "slope", "intercept", "ece", "ici"]


def figures(risk, y, W, threshold=None):
    """Every figure under every weighting: {name: (B)}, NaN where it is not defined."""
    if not risk.size:
        return {k: np.full(W.shape[0], np.nan) for k in FIGURES}
    slope, intercept = weighted_calibration(risk, y, W)
    out = {
        "auroc": weighted_auroc(risk, y, W),
        "auprc": weighted_auprc(risk, y, W),
        "brier": weighted_brier(risk, y, W),
        "log_loss": weighted_log_loss(risk, y, W),
        "oe": weighted_oe(risk, y, W),
        "slope": slope,
        "intercept": intercept,
        "ece": weighted_ece(risk, y, W),
        "ici": weighted_ici(risk, y, W),
    }
    if threshold is not None:
        out.update(weighted_decisions(risk, y, W, threshold))
    return out


# ---- one figure of all rows -----------------------------------------------------------------------------------------


def _plain(figure, risk, y):
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    if not risk.size:
        return None
    value = float(figure(risk, y, np.ones((1, risk.size)))[0])
    return value if np.isfinite(value) else None


def auroc(risk, y):
    return _plain(weighted_auroc, risk, y)


def auprc(risk, y):
    return _plain(weighted_auprc, risk, y)


def brier(risk, y):
    """Mean of (risk - outcome)^2; in expectation p (1-r)^2 + (1-p) r^2 for a probability p."""
    return _plain(weighted_brier, risk, y)


def separated(risk, y):
    """Does one threshold of the risk tell the classes apart?  Then no slope is finite."""
    x, y = np.asarray(risk, float), np.asarray(y, float)
    if y.sum() <= 0 or (1 - y).sum() <= 0:
        return True
    return bool(x[y > 0].min() >= x[y < 1].max() or x[y > 0].max() <= x[y < 1].min())


def calibration(risk, y):
    """Slope and intercept; (None, None) when they cannot be fitted: one class only, one risk for all, or classes that a
    threshold separates."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    if not risk.size or separated(risk, y):
        return None, None
    slope, intercept = weighted_calibration(risk, y, np.ones((1, risk.size)))
    return (float(slope[0]), float(intercept[0])) if np.isfinite(slope[0]) else (None, None)


def calibration_bins(risk, y, bins=10):
    """Equal-mass bins: mean risk, mean outcome and size of each; and the expected calibration error over them."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    order, start = _bins(risk, bins) if risk.size else (np.zeros(0, int), np.zeros(0, int))
    rows = [
        {"risk": float(risk[part].mean()), "outcome": float(y[part].mean()), "n": int(part.size)}
        for part in np.split(order, start[1:])
        if part.size
    ]
    error = sum(r["n"] * abs(r["risk"] - r["outcome"]) for r in rows) / max(risk.size, 1)
    return rows, float(error)


def roc(risk, y):
    """Points (false positive rate, true positive rate) of the ROC curve; y may be a probability."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    pos, neg = (np.cumsum(_by_risk(risk, a[None])[0, ::-1]) for a in (y, 1 - y))
    return np.r_[0, neg / neg[-1]], np.r_[0, pos / pos[-1]]


def net_benefit(risk, y, thresholds):
    """Decision curve (Vickers and Elkin 2006): rows of threshold, net benefit of alerting by risk, and of alerting all.
    A threshold t says that t/(1-t) needless alerts are a fair price for a right one; alerting nobody has 0."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    rows = []
    for t in thresholds:
        alert, price = risk >= t, t / (1 - t)
        rows.append({
            "threshold": float(t),
            "model": float(np.mean(alert * (y - price * (1 - y)))),
            "all": float(np.mean(y - price * (1 - y))),
        })  # fmt: skip
    return rows


# ---- follow-up that ends ------------------------------------------------------------------------------------------


def censoring_weights(last, censored, strata=None):
    """Inverse probability of having been followed so long: 1 / G(last-) where G is the Kaplan-Meier curve of censoring,
    one a stratum; 0 for censored rows.  last: when the outcome was decided or follow-up ended."""
    last, censored = np.asarray(last, float), np.asarray(censored, bool)
    strata = np.zeros(last.size, int) if strata is None else np.asarray(strata)
    weight = np.zeros(last.size)
    for s in np.unique(strata):
        i = np.flatnonzero(strata == s)
        times, inverse = np.unique(last[i], return_inverse=True)
        ends = np.bincount(inverse, censored[i], times.size)
        at_risk = (
            i.size - np.cumsum(np.bincount(inverse, minlength=times.size)) + np.bincount(inverse, minlength=times.size)
        )
        # Outcomes decided at t come before censoring at t: who is decided then was never at risk of being censored at t.
        decided = np.bincount(inverse, ~censored[i], times.size)
        kept = np.where(at_risk - decided > 0, 1 - ends / np.maximum(at_risk - decided, 1), 1)
        before = np.concatenate([[1.0], np.cumprod(kept)[:-1]])
        g = before[inverse]
        weight[i] = np.where(censored[i] | (g <= 0), 0, 1 / np.where(g > 0, g, 1))
    return weight


def concordance(risk, last, event, weight):
    """Time-dependent concordance up to the horizon (Uno 2011): of pairs in which one has the outcome and the other is
    known not to have it until later, the share in which the first has the higher risk; weighted by the square of the
    inverse probability of being followed up to then.  last: time of the outcome or end of follow-up."""
    risk, last, event = (np.asarray(a, float) for a in (risk, last, event))
    won = total = 0.0
    for i in np.flatnonzero((event > 0) & (weight > 0)):
        later = (last > last[i]) | ((last == last[i]) & (event == 0))
        w = weight[i] ** 2
        total += w * later.sum()
        won += w * ((risk[later] < risk[i]).sum() + 0.5 * (risk[later] == risk[i]).sum())
    return float(won / total) if total > 0 else None


# ---- intervals and tests ------------------------------------------------------------------------------------------------


def resamples(patient, n, seed):
    """Yields (b, rows) arrays of weights, n in all: how often each row's patient was drawn."""
    rng = np.random.default_rng(seed)
    ids, member = np.unique(patient, return_inverse=True)
    block = int(max(1, min(n, 4_000_000 // max(member.size, 1))))
    for at in range(0, n, block):
        counts = [
            np.bincount(rng.integers(0, ids.size, ids.size), minlength=ids.size) for _ in range(min(block, n - at))
        ]
        yield np.asarray(counts, float)[:, member]


def draw(statistics, patient, n, seed):
    """statistics: function of weights (b, rows) -> {name: (b)}.  All n values of each: {name: (n)}."""
    parts = [statistics(W) for W in resamples(patient, n, seed)] if len(patient) else []
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} if parts else {}


def interval(values):
    """The middle 95%; None when the figure is undefined in more than a tenth of the resamples."""
    good = values[np.isfinite(values)]
    return (
        [float(v) for v in np.percentile(good, [2.5, 97.5])] if good.size and good.size >= 0.9 * values.size else None
    )


def wilson(hits, n, z=1.96):
    """95% interval of a share (Wilson 1927)."""
    middle, half = hits + z * z / 2, z * np.sqrt(hits * (n - hits) / n + z * z / 4)
    return (middle - half) / (n + z * z), (middle + half) / (n + z * z)


def p_value(value, values, effective=None):
    """Two-sided, of value = 0, by the spread of its resamples; None when it is undefined in more than a tenth.
    effective: how many observations that spread rests on (of a group: its positives).  With few of them it is itself
    uncertain, and so it is with few resamples: Student's t with that many degrees of freedom, less one, for the normal."""
    good = values[np.isfinite(values)]
    if (
        value is None
        or not np.isfinite(value)
        or good.size < 0.9 * values.size
        or good.size < 2
        or good.std(ddof=1) <= 0
    ):
        return None
    z = abs(value) / good.std(ddof=1)
    if effective is None:
        return math.erfc(z / math.sqrt(2))
    return float(2 * stats.t.sf(z, 1 / (1 / (effective - 1) + 1 / (good.size - 1))))


def benjamini_hochberg(p, level=0.05):
    """Which of the tests are rejected when at most `level` of the rejections are to be false (1995)."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= level * np.arange(1, p.size + 1) / p.size)
    out = np.zeros(p.size, bool)
    if below.size:
        out[order[: below[-1] + 1]] = True
    return out


def bootstrap(statistics, patient, n, seed):
    """95% intervals of several statistics by resampling patients (all index times of a drawn patient come along).

    statistics: function of an index array -> dict of numbers or None.  Returns {name: [low, high] or None}.
    """
    patient = np.asarray(patient)

    def values(W):
        rows = [statistics(np.repeat(np.arange(patient.size), w.astype(int))) for w in W]
        return {k: np.array([np.nan if r[k] is None else r[k] for r in rows], float) for k in rows[0]}

    return {k: interval(v) for k, v in draw(values, patient, n, seed).items()}
