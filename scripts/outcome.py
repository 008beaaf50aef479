"""Every figure of one outcome, from the risks of held-out rows and, where there are some, of tuning rows."""

import numpy as np

import fairness
import metrics
import recalibrate

LENGTHS = [(0, 50, "under 50 tokens"), (50, 200, "50 to 199 tokens"), (200, 800, "200 to 799 tokens"),
           (800, np.inf, "800 tokens or more")]  # fmt: skip
PAIRED = ["auroc", "auprc", "brier", "log_loss"]
DECISIONS = ["tpr", "tpr_expected", "specificity", "ppv", "alerts_per_100"]


def number(x):
    return float(x) if x is not None and np.isfinite(x) else None


class Rows:
    """Rows of a risk table with what is known of each: its outcome, its subgroups, its follow-up."""

    def __init__(self, columns, groups=None):
        self.risk = np.asarray(columns["risk"], float)
        self.y = np.asarray(columns["outcome"], float)
        self.patient = columns["patient_key"]
        self.mc_se = columns.get("mc_se", np.full(self.risk.size, np.nan))
        self.truth = columns.get("true_risk", np.full(self.risk.size, np.nan))
        self.groups = dict(groups or {})
        if "known_tokens" in columns:
            n = columns["known_tokens"]
            self.groups["RECORD LENGTH"] = np.select(
                [(n >= a) & (n < b) for a, b, _ in LENGTHS], [c for _, _, c in LENGTHS], ""
            )
        self.event = columns.get("event_minutes")  # after the index; NaN = none
        self.censor = columns.get("censor_minutes")
        self.death = columns.get("death_minutes")

    def followed(self, horizon):
        """(time of the outcome or end of what is known, was it censored): None without follow-up columns."""
        if self.event is None:
            return None
        end = np.fmin(self.censor, horizon)
        last = np.where(
            self.y == 1, np.fmin(self.event, horizon), np.fmin(end, np.where(np.isfinite(self.death), self.death, end))
        )
        last = np.where((self.y == 0) & ~np.isfinite(self.death), horizon, last)
        return last, self.y < 0

    def weights(self, horizon):
        """Inverse probabilities of censoring, by quarters of the risk; ones and zeros without follow-up columns."""
        followed = self.followed(horizon)
        if followed is None or not followed[1].any():
            return (self.y >= 0).astype(float)
        quarter = np.searchsorted(np.quantile(self.risk, [0.25, 0.5, 0.75]), self.risk)
        return metrics.censoring_weights(*followed, quarter)


def _subset(W, i):
    return W[:, i]


def _truth_figures(rows, W):
    out = metrics.figures(rows.risk, rows.truth, W)
    out["auroc_true_risk"] = metrics.weighted_auroc(rows.truth, rows.truth, W)
    out["rmse"] = np.sqrt(metrics._divide(W @ (rows.risk - rows.truth) ** 2, W.sum(1)))
    return out


class Study:
    """The figures of one outcome as a function of weights, so that one set of resamples serves them all."""

    def __init__(self, rows, record, baselines):
        self.rows, self.record = rows, record
        self.known = np.flatnonzero(rows.y >= 0)
        self.y = rows.y[self.known]
        self.raw = rows.risk[self.known]
        self.mapped = recalibrate.apply(record, rows.risk)[self.known] if record else self.raw
        self.threshold = record["threshold"] if record else None
        self.baselines = {k: v[self.known] for k, v in baselines.items()}
        self.truth = bool(rows.risk.size and np.all(np.isfinite(rows.truth)))
        self.parts = [
            (group, label, labels[self.known] == label)
            for group, labels in rows.groups.items()
            for label in sorted(set(labels[self.known]))
            if label not in ("", "UNKNOWN")
        ]
        self.judged = [p for p in self.parts if self.y[p[2]].sum() >= fairness.LEAST_POSITIVES and not p[2].all()]
        self.judge = fairness.Judge(self.mapped, self.y, rows.patient[self.known], self.threshold) if self.judged else None

    def __call__(self, W):
        out = {}
        if self.truth:
            out.update({("expected", k): v for k, v in _truth_figures(self.rows, W).items()})
        K = _subset(W, self.known)
        out.update({("observed", k): v for k, v in metrics.figures(self.raw, self.y, K).items()})
        if self.record and self.known.size:
            mapped = metrics.figures(self.mapped, self.y, K, self.threshold)
            out.update({("recalibrated", k): v for k, v in mapped.items()})
        for name, risk in self.baselines.items():
            theirs = metrics.figures(risk, self.y, K)
            out.update({("baseline", name, k): v for k, v in theirs.items()})
            for k in PAIRED:
                out["difference", name, k] = out["observed", k] - theirs[k]
        for group, label, i in self.judged:
            mine = metrics.figures(self.mapped[i], self.y[i], K[:, i], self.threshold)
            out.update({("group", group, label, k): v for k, v in mine.items()})
            rest = self._compared(K, ~i)
            for k, v in self._compared(K, i).items():
                out["gap", group, label, k] = v - rest[k]
        return out

    def _compared(self, K, i):
        """What alarms rest on.  None of it depends on how ill a group is: risks that are right have 0, 1 and 0."""
        risk, y, W = self.mapped[i], self.y[i], K[:, i]
        with np.errstate(divide="ignore", invalid="ignore"):
            out = {
                "log_oe": np.log(metrics.weighted_oe(risk, y, W)),
                "slope": metrics.weighted_calibration(risk, y, W)[0],
            }
        if self.threshold is not None:
            d = metrics.weighted_decisions(risk, y, W, self.threshold)
            out["tpr_excess"] = d["tpr"] - d["tpr_expected"]
        return out


def _block(point, drawn, *prefix):
    n = len(prefix)
    keys = [k for k in point if k[:n] == prefix and len(k) == n + 1]
    block = {k[-1]: number(point[k][0]) for k in keys}
    block["interval"] = {
        k[-1]: metrics.interval(drawn[k]) if k in drawn and block[k[-1]] is not None else None for k in keys
    }
    return block


def _subgroups(study, point, drawn):
    out = []
    for group, label, i in study.parts:
        entry = {"name": f"{group}//{label}", "group": group, "label": label, "n": int(i.sum()),
                 "positive": int(study.y[i].sum()), "prevalence": number(study.y[i].mean()),
                 "mean_risk": number(study.mapped[i].mean())}  # fmt: skip
        if any(p[0] == group and p[1] == label for p in study.judged):
            entry.update(_block(point, drawn, "group", group, label))
            entry["tests"], p = [], study.judge(i)
            for k in ["log_oe", "slope", "tpr_excess"]:
                key = ("gap", group, label, k)
                if key not in point:
                    continue
                entry["tests"].append({"statistic": k, "gap": number(point[key][0]), "p": p[k], "alarm": False,
                                       "interval": metrics.interval(drawn[key]) if key in drawn else None})  # fmt: skip
        else:
            entry["note"] = f"fewer than {fairness.LEAST_POSITIVES} positives" if not i.all() else "everybody"
        out.append(entry)
    return out


def _budgets(study, days):
    out = []
    one = np.ones((1, study.y.size))
    for b in study.record["budgets"]:
        d = metrics.weighted_decisions(study.mapped, study.y, one, b["threshold"])
        found = days[(study.mapped >= b["threshold"]) & (study.y == 1)] if days is not None else np.zeros(0)
        out.append({"budget": b["alerts_per_100"], "threshold": b["threshold"],
                    **{k: number(d[k][0]) for k in ("tpr", "ppv", "alerts_per_100")},
                    "lead_days": number(np.nanmedian(found)) if found.size else None})  # fmt: skip
    return out


def _censored_figures(rows, horizon):
    """Figures of which the weights stand for those who were not followed long enough."""
    w = rows.weights(horizon)
    i = w > 0
    if not (rows.y < 0).any() or not i.any():
        return None
    f = metrics.figures(rows.risk[i], rows.y[i], w[i][None])
    return {
        "of": "all rows, of which those followed to the horizon, weighted, stand in for the others",
        "rows": int(i.sum()),
        "prevalence": number(w[i] @ rows.y[i] / w[i].sum()),
        **{k: number(v[0]) for k, v in f.items()},
    }


def evaluate(name, attributes, rows, record=None, baselines=None, settings=None, n_bootstrap=1000, seed=1):
    """The record of one outcome for report.json; what only pictures need is under names that begin with "_"."""
    horizon = float(attributes.get("horizon_minutes", "nan"))
    study = Study(rows, record, baselines or {})
    point = study(np.ones((1, rows.risk.size)))
    if metrics.separated(study.raw, study.y):
        for k in [k for k in point if k[0] in ("observed", "recalibrated") and k[-1] in ("slope", "intercept", "ici")]:
            point[k] = np.array([np.nan])
    drawn = metrics.draw(study, rows.patient, n_bootstrap, seed)
    out = {
        "name": name,
        "horizon_days": horizon / 1440,
        "estimator": attributes.get("estimator"),
        "n": int(rows.risk.size),
        "patients": int(np.unique(rows.patient).size),
        "censored": int((rows.y < 0).sum()),
        "positive": int((rows.y == 1).sum()),
        "mean_risk": number(rows.risk.mean()) if rows.risk.size else None,
        "mean_mc_se": number(np.nanmean(rows.mc_se)) if np.isfinite(rows.mc_se).any() else None,
        "observed": _block(point, drawn, "observed"),
    }
    bins, _ = metrics.calibration_bins(study.raw, study.y) if study.y.size else ([], None)
    out["observed"]["of"] = "the rows followed to the horizon, each counted once"
    out["observed"]["calibration"] = bins
    if study.truth:
        out["expected"] = _block(point, drawn, "expected")
        out["expected"]["calibration"], _ = metrics.calibration_bins(rows.risk, rows.truth)
        out["mean_true_risk"] = number(rows.truth.mean())
    main = out["expected"] if study.truth else out["observed"]
    out.update({k: main.get(k) for k in metrics.FIGURES})
    out["auroc_interval"] = main["interval"].get("auroc")
    out["auroc_true_risk"] = out["expected"]["auroc_true_risk"] if study.truth else None
    out["rmse"] = out["expected"]["rmse"] if study.truth else None
    _add_followup(out, study, rows, horizon, point, drawn)
    out["subgroups"] = _subgroups(study, point, drawn)
    out["baselines"] = [
        {"name": k, **(settings or {}).get(k, {}), **_block(point, drawn, "baseline", k),
         "auroc_expected": metrics.auroc(baselines[k], rows.truth) if study.truth else None,
         "ours_minus_it": _block(point, drawn, "difference", k)}
        for k in study.baselines
    ]  # fmt: skip
    out["_curve"] = (rows.risk, rows.truth) if study.truth else (study.raw, study.y)
    out["_study"] = study
    return out


def _add_followup(out, study, rows, horizon, point, drawn):
    followed = rows.followed(horizon)
    days = None
    if followed is not None and study.y.size:
        weight = rows.weights(horizon)
        out["concordance"] = metrics.concordance(rows.risk, followed[0], rows.y == 1, weight)
        out["censoring_weighted"] = _censored_figures(rows, horizon)
        days = rows.event[study.known] / 1440
    if study.record and study.y.size:
        out["recalibration"] = {
            k: study.record[k] for k in ("slope", "intercept", "fitted", "rows", "positive", "sha256")
        }
        out["recalibrated"] = _block(point, drawn, "recalibrated")
        out["recalibrated"]["calibration"], _ = metrics.calibration_bins(study.mapped, study.y)
        out["threshold"] = {"value": study.threshold, "alerts_per_100_tuning": study.record["alerts_per_100"],
                            **{k: out["recalibrated"][k] for k in DECISIONS}}  # fmt: skip
        out["budgets"] = _budgets(study, days)
    if study.y.size and 0 < study.y.sum() < study.y.size:
        top = min(0.5, max(0.02, 4 * study.y.mean()))
        out["decision_curve"] = metrics.net_benefit(study.mapped, study.y, np.linspace(0.005, top, 40))
