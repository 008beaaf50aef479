"""Recalibration maps and alert thresholds, fitted on the tuning split alone and kept in recalibration.json.

The map is logit(p) -> intercept + slope logit(p) (Cox 1958): one that cannot change the order of patients.  With fewer
than 20 positives only the intercept is fitted, with fewer than 5 nothing is.  Rows whose follow-up ended early have no
outcome; the others stand in for them with the inverse of the probability of having been followed (metrics.py)."""

import hashlib
import json

import numpy as np

import metrics

BUDGETS = [1, 2, 5, 10, 20]  # alerts per 100 rows
FIT_SLOPE, FIT_INTERCEPT = 20, 5  # positives


def apply(record, risk):
    return metrics.expit(record["intercept"] + record["slope"] * metrics.logit(risk))


def alert_threshold(risk, alerts):
    """The lowest risk at and above which are at most `alerts` per 100 rows; the highest where even that has more, because
    one above it would alert on nobody."""
    value, rows = np.unique(risk, return_counts=True)
    kept = np.flatnonzero(np.cumsum(rows[::-1])[::-1] <= alerts / 100 * risk.size + 1e-9)
    return float(value[kept[0] if kept.size else -1])


def fit(risk, outcome, weight, alerts):
    """risk, outcome (-1 unknown) and weight of tuning rows; alerts: per 100 rows, at the threshold that is stored."""
    known = outcome >= 0
    y, w = outcome[known].astype(float), weight[known]
    positive, negative = int((y > 0).sum()), int((y < 1).sum())
    x = metrics.logit(risk[known])
    record = {"slope": 1.0, "intercept": 0.0, "rows": int(risk.size), "known": int(known.sum()), "positive": positive}
    if min(positive, negative) >= FIT_SLOPE and np.ptp(x) > 1e-9 and not metrics.separated(x, y):
        b = metrics.fit_logistic(np.column_stack([np.ones_like(x), x]), y, w[None], [0.0, 1.0])[0]
        if np.isfinite(b).all() and b[1] > 0:
            record.update(intercept=float(b[0]), slope=float(b[1]))
            record["fitted"] = "slope and intercept"
    if "fitted" not in record and min(positive, negative) >= FIT_INTERCEPT:
        record["intercept"] = _shift(x, y, w)
        record["fitted"] = f"intercept alone: {positive} positives are too few for a slope, or it is not above 0"
    if "fitted" not in record:
        record["fitted"] = f"nothing: {positive} positives in the tuning split, {FIT_INTERCEPT} are needed"
    recalibrated = apply(record, risk)
    record["alerts_per_100"] = alerts
    record["threshold"] = alert_threshold(recalibrated, alerts)
    record["budgets"] = [{"alerts_per_100": b, "threshold": alert_threshold(recalibrated, b)} for b in BUDGETS]
    return record


def _shift(x, y, w):
    """The intercept at which the weighted risks add up to the weighted outcomes, slope 1."""
    low, high = -30.0, 30.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if w @ (metrics.expit(x + middle) - y) > 0:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


def content(record):
    """What of a record is hashed, as text."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def digest(record):
    """sha256 of a record: the map's id."""
    return hashlib.sha256(content(record).encode()).hexdigest()


def seal(record):
    """The record with the very text that was hashed beside it: a deployment checks that, whatever it takes numbers for."""
    return {**record, "hashed": content(record), "sha256": digest(record)}


def document(records):
    """recalibration.json."""
    return {"format": "ehr.c recalibration", "format_version": 2, "outcomes": records}
