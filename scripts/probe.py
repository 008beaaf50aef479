"""What a few labels get out of the model: a logistic regression on its hidden states (`ehr-infer embed`) at an index time,
learnt from k positives and k negatives, k = 1 to 128, then from all rows; as EHRSHOT (Wornow 2023) does it.

Beside it the same regression on counts of codes, from the very same rows, and the model's simulated risks, which take no
label.  The strength of the penalty is chosen on as many tuning rows; each figure is a mean over several draws of the rows.
"""

import json
import time
import warnings

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import baselines
import metrics
import shards
import suite

SHOTS = [1, 2, 4, 8, 16, 32, 64, 128]
DRAWS = 5  # of the rows to learn from
PENALTIES = [0.001, 0.03, 1.0]


def embed(s, labels, split, limit, name):
    """Columns of `ehr-infer embed` at the rows of a label file; None where the split has none."""
    if not (suite.read_labels(labels)[0]["split"] == shards.SPLITS.index(split)).any():
        return None
    out = s.work / f"{name}-{split}-embedding.h5"
    if not s._fresh(out, {"model": s.model, "labels": shards.sha256(labels), "limit": limit}):
        started = time.time()
        words = [suite.program("ehr-infer"), "embed", s.args.checkpoint, "--data", s.args.data, "--labels", labels, "--split", split,
                 "--limit", limit, "--out", out]  # fmt: skip
        rc, end = suite.command(words, out.with_suffix(".log"))
        s.timed("embeddings", started)
        if rc:
            raise shards.BadFile(f"ehr-infer embed failed for {name} ({split}):\n{end}")
    return shards.read_table(
        out, ["patient_key", "index_minutes", "outcome", "last", "mean"], "a table of embeddings", "`ehr-infer embed --labels`"
    )[0]


def draw_shots(y, k, rng):
    """Rows of k positives and k negatives; fewer where there are fewer, None where there is no class."""
    sides = [np.flatnonzero(y == c) for c in (0, 1)]
    if min(i.size for i in sides) == 0:
        return None
    return np.concatenate([rng.choice(i, min(k, i.size), replace=False) for i in sides])


def regression(x, y, tx, ty):
    """Of x on y, its penalty chosen by the log loss of tx, ty."""
    best = None
    for c in PENALTIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=c, max_iter=200).fit(x, y)
        risk = np.clip(model.predict_proba(tx)[:, 1], 1e-6, 1 - 1e-6)
        loss = -np.mean(ty * np.log(risk) + (1 - ty) * np.log(1 - risk))
        if best is None or loss < best[0]:
            best = loss, model
    return best[1]


def scaled(train, *others):
    """Columns of mean 0 and spread 1 over the train rows, whose labels play no part."""
    mean, spread = train.mean(0), train.std(0)
    spread[spread < 1e-6] = 1
    return [(x - mean) / spread for x in (train, *others)]


def curve(features, y, patient, n_bootstrap, seed):
    """features: {name: (train, tuning, test)}; y: of the three.  Rows of k with the AUROC of each on the test rows, on the
    same draws of rows; k None: all rows."""
    rng = np.random.default_rng(seed)
    train_y, tuning_y, test_y = (v.astype(float) for v in y)
    most = int(min(train_y.sum(), (1 - train_y).sum()))
    rows = []
    for k in [k for k in SHOTS if k <= most] + [None]:
        scores = {name: [] for name in features}
        for _ in range(DRAWS if k else 1):
            i = draw_shots(train_y, k, rng) if k else np.arange(train_y.size)
            j = draw_shots(tuning_y, k, rng) if k else np.arange(tuning_y.size)
            # A tuning split with one class chooses nothing: then the rows that were learnt from do.
            choose = j if j is not None and j.size and np.ptp(tuning_y[j]) else None
            for name, (a, b, c) in features.items():
                tx, ty = (a[i], train_y[i]) if choose is None else (b[choose], tuning_y[choose])
                scores[name].append(regression(a[i], train_y[i], tx, ty).decision_function(c))
        row = {"k": k, "positives": k or int(train_y.sum()), "negatives": k or int((1 - train_y).sum())}
        every = {}
        for name, risks in scores.items():
            each = [metrics.auroc(r, test_y) for r in risks]
            draws = metrics.draw(
                lambda W, risks=risks: {"mean": np.mean([metrics.weighted_auroc(r, test_y, W) for r in risks], 0)}, patient, n_bootstrap, seed
            )["mean"]  # fmt: skip
            every[name] = draws
            row[name] = {"auroc": float(np.mean(each)), "interval": metrics.interval(draws), "lowest": min(each), "highest": max(each)}
        if len(every) == 2:
            (a, b) = every
            row["difference"] = row[a]["auroc"] - row[b]["auroc"]
            row["difference_interval"] = metrics.interval(every[a] - every[b])
        rows.append(row)
    return rows


def measure(s, name, fitted, tested, test_columns, limit, attributes):
    """limit: train rows; a quarter as many tuning rows.  None, with a note, where nothing can be learnt."""
    began = time.time()
    tables = [embed(s, fitted, "train", limit, name), embed(s, fitted, "tuning", max(limit // 4, 1), name),
              embed(s, tested, "held_out", s.args.limit, name)]  # fmt: skip
    if tables[0] is None or tables[2] is None:
        s.notes.append(f"{name}: no probe of embeddings, the train or the held-out split has no rows")
        return None
    tables[1] = tables[1] or {k: v[:0] for k, v in tables[0].items()}
    places = {k: i for i, k in enumerate(shards.row_keys(test_columns))}
    keep = [t["outcome"] >= 0 for t in tables]
    at = np.array([places.get(k, -1) for k in shards.row_keys(tables[2])])
    keep[2] &= at >= 0  # the rows that risks were estimated of
    y = [t["outcome"][i] for t, i in zip(tables, keep, strict=True)]
    if min(y[0].sum(), (1 - y[0]).sum()) < 1 or min(y[2].sum(), (1 - y[2]).sum()) < 1:
        s.notes.append(f"{name}: no probe of embeddings, the train or the held-out split has one class only")
        return None
    hidden = scaled(*(np.hstack([t["last"], t["mean"]])[i].astype(float) for t, i in zip(tables, keep, strict=True)))
    v = shards.Vocabulary(s.args.data, s.dataset)
    tokens = v.outcome_tokens(json.loads(attributes.get("outcome_codes", "[]")))
    counts = [counted(s, v, tokens, t, i, f, k) for t, i, f, k in zip(tables, keep, (fitted, fitted, tested), range(3), strict=True)]
    rows = curve({"embedding": hidden, "counts": counts}, y, tables[2]["patient_key"][keep[2]], min(s.args.bootstrap, 300), s.args.seed)
    own = test_columns["risk"][at[keep[2]]]
    s.timed("probes", began)
    return {"train_rows": int(y[0].size), "test_rows": int(y[2].size), "width": int(hidden[0].shape[1]), "draws": DRAWS,
            "curve": rows, "simulated_auroc": metrics.auroc(own, y[2].astype(float))}  # fmt: skip


def counted(s, v, tokens, table, keep, labels, split):
    """Counts of the rows of an embedding table, features of the baselines."""
    columns, _ = suite.read_labels(labels)
    mine = np.flatnonzero(columns["split"] == split)[: keep.size][keep]
    if not mine.size:
        return sparse.csr_matrix((0, len(baselines.WINDOWS_MINUTES) * v.n + 3 + v.n))
    if not np.array_equal(columns["patient_key"][mine], table["patient_key"][keep]):
        raise shards.BadFile(f"{labels}: its rows are not those that were embedded: remove {s.work}")
    part = {k: columns[k][mine] for k in ("split", "patient_row", "index_minutes", "outcome")}
    return baselines.Rows(s.args.data, s.dataset, v, part, tokens).linear()
