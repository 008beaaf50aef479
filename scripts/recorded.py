"""Are as many events recorded in a group's records as the model expects there?

At every place of a held-out record the model says how likely the outcome is next.  Over whole records the sum of those
chances is what it expects, and what came beyond it is noise that knows nothing of what was before (a martingale), so that
every event of a group counts for or against the model: many times as many as have the outcome within a horizon after one
index time, and without a simulated future.  Groups are those that a record begins with: sex, race, age then."""

import time

import numpy as np

import fairness
import metrics
import shards
import suite
import token_quality

COLUMNS = ["patient_key", "index", "token", "p_asked"]
WIDTH = 0.02  # of cells of the log-odds


def measure(s, files, patients):
    """Of every list of outcome codes among label files, on the first held-out patients."""
    out, seen = [], set()
    v = shards.Vocabulary(s.args.data, s.dataset)
    for path in files:
        attributes = suite.read_labels(path)[1]
        codes = [c for c in suite.outcome_codes(attributes) if v.outcome_tokens([c]).any()]  # not what other sites call it
        mark = v.outcome_tokens(codes)
        if not mark.any() or tuple(np.flatnonzero(mark)) in seen:
            continue
        seen.add(tuple(np.flatnonzero(mark)))
        columns = chances(s, path.stem, codes, patients)
        started = time.time()
        out.append({"name": path.stem, "codes": codes, **summarise(columns, mark, groups(s, columns), s.args.bootstrap, s.args.seed)})
        s.timed("figures", started)
    return out


def chances(s, name, codes, patients):
    out = s.work / f"{name}-recorded.h5"
    if not s._fresh(out, {"model": s.model, "dataset": shards.sha256(s.args.data / "dataset.json"), "codes": codes, "limit": patients}):
        suite.say(f"{name}: chances over whole records")
        started = time.time()
        words = [suite.program("ehr-infer"), "score", s.args.checkpoint, "--data", s.args.data, "--split", "held_out", "--limit", patients,
                 "--events", 0, "--codes", ",".join(codes), "--detail", out]  # fmt: skip
        rc, end = suite.command(words, out.with_suffix(".log"))
        s.timed("chances over records", started)
        if rc:
            raise shards.BadFile(f"ehr-infer score failed for {name}:\n{end}")
    columns, _ = shards.read_table(out, COLUMNS, "a table of targets", "`ehr-infer score --detail --codes`", COLUMNS)
    told = columns["index"] >= 0  # not the end of observation, which is no event
    return {k: c[told] for k, c in columns.items()}


def groups(s, columns):
    """{"SEX": label of every patient, ...} in the order of their keys."""
    keys = shards.Split(s.args.data, s.dataset, "held_out").column("patient_key")
    order = np.argsort(keys, kind="stable")
    return shards.groups_of(s.args.data, s.dataset, "held_out", order[np.searchsorted(keys[order], np.unique(columns["patient_key"]))])


def summarise(columns, mark, labels, n_bootstrap, seed):
    """labels: {group: label of each patient, by key}."""
    y, risk = mark[columns["token"].astype(int)].astype(float), columns["p_asked"].astype(float)
    p = token_quality.Patients(columns["patient_key"], seed, n_bootstrap)
    observed, expected = (np.bincount(p.member, x, p.ids.size) for x in (y, risk))
    out = {"patients": int(p.ids.size), "observed": int(y.sum()), "expected": float(risk.sum()), "groups": []}
    drawn_o, drawn_e = p.weight @ observed, p.weight @ expected
    out["oe"], out["interval"] = ratio(observed, expected, drawn_o, drawn_e)
    cell = np.floor(metrics.logit(risk) / WIDTH).astype(int)
    cells = Cells(cell, risk, y, p.member) if fairness.LEAST_POSITIVES <= y.sum() else None
    for group in labels:
        for label in sorted(set(labels[group]) - {"", "UNKNOWN"}):
            i = labels[group] == label
            entry = {"name": f"{group}//{label}", "group": group, "label": label, "patients": int(i.sum()),
                     "observed": int(observed[i].sum()), "expected": float(expected[i].sum())}  # fmt: skip
            mine = (p.weight[:, i] @ observed[i], p.weight[:, i] @ expected[i])
            entry["oe"], entry["interval"] = ratio(observed[i], expected[i], *mine)
            if entry["observed"] >= fairness.LEAST_POSITIVES and observed[~i].sum() >= fairness.LEAST_POSITIVES:
                gap, box = log_gap(observed, expected, i, mine, (drawn_o - mine[0], drawn_e - mine[1]))
                entry["tests"] = [{"statistic": "recorded_oe", "gap": gap, "interval": box, "p": cells.test(i), "alarm": False}]
            out["groups"].append(entry)
    return out


def ratio(o, e, drawn_o, drawn_e):
    with np.errstate(divide="ignore", invalid="ignore"):
        box = metrics.interval(drawn_o / drawn_e)
    return (float(o.sum() / e.sum()) if e.sum() > 0 else None), box


def log_gap(o, e, i, mine, rest):
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.log(o[i].sum() / e[i].sum()) - np.log(o[~i].sum() / e[~i].sum())
        drawn = np.log(mine[0] / mine[1]) - np.log(rest[0] / rest[1])
    return float(gap), metrics.interval(drawn)


class Cells:
    """Places of alike chances together, a cell of each for a group and for the rest: a test then costs next to nothing."""

    def __init__(self, cell, risk, y, member):
        self.cell = np.unique(cell, return_inverse=True)[1]
        self.risk, self.y, self.member = risk, y, member
        self.n_cells = self.cell.max() + 1
        whole = self._judge(np.zeros(risk.size, int), 1, 1.0)
        p = whole.p[self.cell]
        self.over = fairness.dispersion(member, y - p, p * (1 - p))

    def _judge(self, side, sides, over):
        at = self.cell + self.n_cells * side
        n, y, r = (np.bincount(at, x, self.n_cells * sides) for x in (np.ones(at.size), self.y, self.risk))
        self.kept = np.flatnonzero(n)
        n, y, r = n[self.kept], y[self.kept], r[self.kept]
        return fairness.Judge(r / n, y / n, n=n, over=over)

    def test(self, patients):
        """patients: which of them are the group."""
        judge = self._judge(patients[self.member].astype(int), 2, self.over)
        return judge.log_oe(self.kept >= self.n_cells)
