"""Alarms for groups: are the risks of a group as right as everybody else's?

A test asks whether sum_i a_i (y_i - p_i) is too far from 0, where p is what a logistic regression of all outcomes on
logit(risk) says, and a picks the rows of the group out, cleared of what that regression could take up (an efficient score;
Cox and Hinkley 1974).  So a risk that is wrong for everybody alike raises no alarm, and neither does a group that is only
more or less ill than others.  Its probability comes from the saddlepoint of a sum of independent outcomes (Lugannani and
Rice 1980), which is right where a group has few of them and a normal's is not; rows of one patient are not independent,
and what that adds to the variance is taken from all patients.

Observed over expected is tested against the nearest odds within a twentieth of the other patients': with enough patients every
model is wrong by something, and an alarm is to be worth somebody's time.
"""

import math

import numpy as np

import metrics

LEAST_POSITIVES = 20  # of a group, for it to be judged
TOLERATED = math.log(1.05)  # gap of log odds that is no alarm


def _score(a, p, y, n):
    return float((n * a) @ (y - p))


def tail(a, p, y, over=1.0, n=None):
    """Two-sided probability of sum n a (y - p) being as far from 0: n outcomes a row, y their mean, independent with means p;
    over: by what their dependence multiplies the variance.  None when the sum cannot be anything but 0."""
    n = np.ones(a.size) if n is None else n
    used = (a != 0) & (n > 0)
    a, p, y, n = a[used], p[used], y[used], n[used]
    variance = float((n * a**2) @ (p * (1 - p)))
    if not variance > 0:
        return None
    a = a / math.sqrt(variance)
    base, total = metrics.logit(p, 1e-12), _score(a, p, y, n)
    t = total
    for _ in range(100):  # K'(t) = total, by Newton steps that cannot run away
        q = metrics.expit(base + a * t)
        step = (total - (n * a) @ (q - p)) / max(float((n * a**2) @ (q * (1 - q))), 1e-9)
        t += min(max(step, -1.0), 1.0)
        if abs(step) < 1e-10:
            break
    q = metrics.expit(base + a * t)
    cumulant = float(n @ np.logaddexp(np.log1p(-p), np.log(p) + a * t)) - t * float((n * a) @ p)
    r = math.copysign(math.sqrt(max(2 * (t * total - cumulant), 0)), t)
    u = t * math.sqrt(float((n * a**2) @ (q * (1 - q))))
    if abs(r) > 1e-3 and u / r > 0:  # the correction vanishes at 0
        r += math.log(u / r) / r
    return math.erfc(abs(r) / math.sqrt(2 * over))


def dispersion(patient, residual, variance):
    """The variance of patients' sums of residuals over what independent rows would have; at least 1."""
    of_patient = np.bincount(np.unique(patient, return_inverse=True)[1], residual)
    return max(1.0, float((of_patient**2).sum() / variance.sum()))


def fitted(X, y, n):
    """Means by a logistic regression of y on the columns of X (first: ones); None where it has no finite answer."""
    b = metrics.fit_logistic(X, y, n[None], np.r_[0.0, 1.0, np.zeros(X.shape[1] - 2)] if X.shape[1] > 1 else [0.0])[0]
    return metrics.expit(X @ b) if np.isfinite(b).all() else None


class Judge:
    """Tests of the groups of one outcome: rows of risk and outcome, or cells of n rows with their mean outcome."""

    def __init__(self, risk, y, patient=None, threshold=None, n=None, over=None):
        self.risk, self.y, self.threshold = risk, y, threshold
        self.n = np.ones(risk.size) if n is None else n
        x = metrics.logit(risk)
        one = np.ones_like(x)
        self.X = np.column_stack([one, x])
        self.p = None if np.ptp(x) < 1e-9 or metrics.separated(x, y) else fitted(self.X, y, self.n)
        if self.p is None:
            self.X = one[:, None]
            self.p = np.full(x.size, np.average(y, weights=self.n))
        self.v = self.p * (1 - self.p)
        self.over = dispersion(patient, y - self.p, self.v) if over is None else over

    def _cleared(self, a, X, v):
        root = np.sqrt(self.n * v)
        return a - X @ np.linalg.lstsq(root[:, None] * X, root * a, rcond=None)[0]

    def log_oe(self, group):
        a = self._cleared(group.astype(float), self.X, self.v)
        side = math.copysign(1, _score(a, self.p, self.y, self.n))
        edge = metrics.expit(metrics.logit(self.p, 1e-12) + side * TOLERATED * a)
        if side * _score(a, edge, self.y, self.n) <= 0:
            return 1.0
        return tail(a, edge, self.y, self.over, self.n)

    def slope(self, group):
        if self.X.shape[1] == 1:
            return None
        X = np.column_stack([self.X, group])
        p = fitted(X, self.y, self.n)
        if p is None:
            return None
        return tail(self._cleared(group * self.X[:, 1], X, p * (1 - p)), p, self.y, self.over, self.n)

    def tpr_excess(self, group):
        alert = (self.risk >= self.threshold).astype(float)
        a = np.zeros(self.risk.size)
        for side, i in ((1, group), (-1, ~group)):
            all_of = self.n[i] @ self.p[i]
            if all_of <= 0:
                return None
            a[i] = side * (alert[i] - (self.n[i] * self.p[i]) @ alert[i] / all_of) / all_of
        return tail(self._cleared(a, self.X, self.v), self.p, self.y, self.over, self.n)

    def __call__(self, group):
        out = {"log_oe": self.log_oe(group), "slope": self.slope(group)}
        if self.threshold is not None:
            out["tpr_excess"] = self.tpr_excess(group)
        return out


def adjusted(p, weight):
    """Benjamini and Hochberg's p after correction, each test first divided by its weight (Genovese 2006; weights of mean
    1): at most `level` of those at or below `level` are expected to be false."""
    p, weight = np.asarray(p, float), np.asarray(weight, float)
    q = p * weight.mean() / weight
    order = np.argsort(q, kind="stable")
    least = np.minimum.accumulate((q[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    out = np.empty(p.size)
    out[order] = np.minimum(least, 1)
    return out


def raise_alarms(outcomes, recorded=(), level=0.05):
    """Marks the tests of all groups that are rejected, in one family; returns them and the count of tests.  What was
    recorded over whole records has half of the level: few tests, which see the most."""
    tests = [(o["name"], s, t) for o in outcomes for s in o["subgroups"] for t in s.get("tests", []) if t["p"] is not None]
    later = [(r["name"], s, t) for r in recorded for s in r["groups"] for t in s.get("tests", []) if t["p"] is not None]
    if not tests + later:
        return [], 0
    weight = [1 / len(k) for k in (tests, later) for _ in k]
    for (_, _, t), q in zip(tests + later, adjusted([t["p"] for _, _, t in tests + later], weight), strict=True):
        t["p_adjusted"], t["alarm"] = float(q), bool(q <= level)
    alarms = [
        {"outcome": name, "subgroup": s["name"], **{k: t[k] for k in ("statistic", "gap", "interval", "p", "p_adjusted")}}
        for name, s, t in tests + later
        if t["alarm"]
    ]
    return alarms, len(tests + later)
