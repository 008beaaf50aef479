"""Statistics of predicted risks: discrimination, calibration, intervals.

Arrays are one-dimensional, one element per patient and index time: `risk` in [0, 1], `y` 0 or 1, or a true probability
in [0, 1].  A true probability p counts in expectation, as p of a positive and 1 - p of a negative: sampled labels of a
thousand patients would move an AUROC by more than the differences that matter.
"""

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve


def auroc(risk, y):
    """Area under the ROC curve (ties count half); y may be a probability, then pairs of a patient with itself are left
    out.  None when there is no positive or no negative."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    pos, neg = y.sum(), (1 - y).sum()
    own = (y * (1 - y)).sum()
    if pos <= 0 or neg <= 0 or pos * neg - own <= 0:
        return None
    score = np.concatenate([risk, risk])
    label = np.concatenate([np.ones_like(y), np.zeros_like(y)])
    weight = np.concatenate([y, 1 - y])
    keep = weight > 0
    area = roc_auc_score(label[keep], score[keep], sample_weight=weight[keep])
    return float((area * pos * neg - 0.5 * own) / (pos * neg - own))


def auprc(risk, y):
    """Average precision (the step form, not a trapezoid); y may be a probability."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    if y.sum() <= 0 or (1 - y).sum() <= 0:
        return None
    weight = np.concatenate([y, 1 - y])
    keep = weight > 0
    label = np.concatenate([np.ones_like(y), np.zeros_like(y)])[keep]
    return float(average_precision_score(label, np.concatenate([risk, risk])[keep], sample_weight=weight[keep]))


def brier(risk, y):
    """Mean of (risk - outcome)^2; in expectation p (1-r)^2 + (1-p) r^2 for a probability p."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    return float(np.mean(y * (1 - risk) ** 2 + (1 - y) * risk**2))


def logit(p, floor=1e-6):
    p = np.clip(np.asarray(p, float), floor, 1 - floor)
    return np.log(p / (1 - p))


def calibration(risk, y):
    """Slope and intercept of the logistic regression of y on logit(risk); 1 and 0 are perfect (Cox 1958).  (None, None)
    when it cannot be fitted: one class only, one risk for all, or classes that a threshold separates (no finite slope)."""
    x, y = logit(risk), np.asarray(y, float)
    if y.sum() <= 0 or (1 - y).sum() <= 0 or np.ptp(x) < 1e-9:
        return None, None
    if x[y > 0].min() >= x[y < 1].max() or x[y > 0].max() <= x[y < 1].min():
        return None, None

    def loss(w):
        z = w[0] * x + w[1]
        return np.mean(np.logaddexp(0, z) - y * z)

    def slope(w):
        d = 1 / (1 + np.exp(-(w[0] * x + w[1]))) - y
        return np.array([np.mean(d * x), np.mean(d)])

    fit = minimize(loss, np.array([1.0, 0.0]), jac=slope, method="BFGS")
    if not np.all(np.isfinite(fit.x)) or abs(fit.x[0]) > 50:
        return None, None
    return float(fit.x[0]), float(fit.x[1])


def calibration_bins(risk, y, bins=10):
    """Equal-mass bins: mean risk, mean outcome and size of each; and the expected calibration error over them."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    order = np.argsort(risk, kind="stable")
    rows = [
        {"risk": float(risk[part].mean()), "outcome": float(y[part].mean()), "n": int(part.size)}
        for part in np.array_split(order, min(bins, risk.size))
        if part.size
    ]
    error = sum(r["n"] * abs(r["risk"] - r["outcome"]) for r in rows) / max(risk.size, 1)
    return rows, float(error)


def roc(risk, y):
    """Points (false positive rate, true positive rate) of the ROC curve; y may be a probability."""
    risk, y = np.asarray(risk, float), np.asarray(y, float)
    weight = np.concatenate([y, 1 - y])
    keep = weight > 0
    label = np.concatenate([np.ones_like(y), np.zeros_like(y)])[keep]
    fpr, tpr, _ = roc_curve(label, np.concatenate([risk, risk])[keep], sample_weight=weight[keep])
    return fpr, tpr


def bootstrap(statistics, patient, n, seed):
    """95% intervals of several statistics by resampling patients (all index times of a drawn patient come along).

    statistics: function of an index array -> dict of numbers or None.  Returns {name: [low, high] or None}; a statistic
    that is undefined in more than a tenth of the resamples has no interval.
    """
    rng = np.random.default_rng(seed)
    ids, member = np.unique(patient, return_inverse=True)
    rows = np.argsort(member, kind="stable")
    start = np.searchsorted(member[rows], np.arange(ids.size + 1))
    draws = {}
    for _ in range(n):
        chosen = rng.integers(0, ids.size, ids.size)
        index = np.concatenate([rows[start[c] : start[c + 1]] for c in chosen])
        for name, value in statistics(index).items():
            draws.setdefault(name, []).append(np.nan if value is None else value)
    out = {}
    for name, values in draws.items():
        values = np.asarray(values, float)
        good = values[np.isfinite(values)]
        out[name] = [float(v) for v in np.percentile(good, [2.5, 97.5])] if good.size >= 0.9 * n and n else None
    return out
