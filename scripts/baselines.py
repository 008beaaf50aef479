"""The models that ours must beat: prevalence, last value, and logistic regression and gradient-boosted trees on counts.

All learn from rows of the train split, choose among settings on the tuning split, and see what our model sees: the tokens
known at the index.  Counts are of each event token in the last 30 days, the last year and ever, as log(1 + n), beside
age, the static tokens, the length of the record and, for trees, the last level of each laboratory code."""

import warnings

import numpy as np
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import metrics
import shards

WINDOWS_MINUTES = [30 * 1440, 365 * 1440, None]
TREE_TOKENS = 160  # the most frequent ones; trees grow slow with more


class Rows:
    """Features of label rows: counts (n, windows * tokens) sparse, about (n, k) dense, last levels (n, labs) dense, and
    the time since the last outcome (n), NaN when there was none."""

    def __init__(self, folder, dataset, vocabulary, labels, outcome_tokens):
        self.outcome = labels["outcome"]
        n, v = self.outcome.size, vocabulary
        labs = sorted({v.base[i] for i in range(v.n) if v.level[i] > 0})
        lab_of = np.array([labs.index(v.base[i]) if v.level[i] > 0 else -1 for i in range(v.n)])
        self.levels = np.full((n, len(labs)), np.nan)
        self.since = np.full(n, np.nan)
        self.last_outcome_token = np.full(n, -1)
        about = np.zeros((n, 3))
        statics = [None] * n
        row, column, value = [], [], []
        bases = {v.base[i] for i in np.flatnonzero(outcome_tokens & (v.level > 0))}
        same_lab = np.array([b in bases for b in v.base])
        for s, split in enumerate(shards.SPLITS):
            mine = np.flatnonzero(labels["split"] == s)
            if not mine.size:
                continue
            part = shards.Split(folder, dataset, split)
            for i, tokens, minutes, static in part.timelines(labels["patient_row"][mine]):
                r, index = mine[i], labels["index_minutes"][mine[i]]
                known = np.searchsorted(minutes, index, side="right")
                t, m = tokens[:known].astype(np.int64), minutes[:known]
                event = v.is_event[t]
                t, m = t[event], m[event]
                for w, window in enumerate(WINDOWS_MINUTES):
                    seen = t if window is None else t[m > index - window]
                    ids, counts = np.unique(seen, return_counts=True)
                    row.append(np.full(ids.size, r))
                    column.append(ids + w * v.n)
                    value.append(np.log1p(counts))
                age = static[-1] + index / 525960
                about[r] = [age / 100, np.log1p(t.size), np.log1p(max(index, 0) / 525960)]
                statics[r] = static[:-1]
                measured = lab_of[t] >= 0
                self.levels[r, lab_of[t[measured]]] = v.level[t[measured]]  # in time order: the last one stays
                hits = np.flatnonzero(outcome_tokens[t])
                if hits.size:
                    self.since[r] = (index - m[hits[-1]]) / 1440
                relevant = np.flatnonzero(same_lab[t])
                if relevant.size:
                    self.last_outcome_token[r] = t[relevant[-1]]
        shape = (n, len(WINDOWS_MINUTES) * v.n)
        join = [np.concatenate(a) if a else np.zeros(0) for a in (value, row, column)]
        self.counts = sparse.csr_matrix((join[0], (join[1].astype(int), join[2].astype(int))), shape=shape)
        which = [(r, k) for r, ids in enumerate(statics) if ids is not None for k in np.asarray(ids, int)]
        at = np.array(which, int).reshape(-1, 2)
        self.statics = sparse.csr_matrix((np.ones(len(at)), (at[:, 0], at[:, 1])), shape=(n, v.n))
        self.about = about

    def linear(self):
        return sparse.hstack([self.counts, sparse.csr_matrix(self.about), self.statics]).tocsr()

    def trees(self, counts, statics):
        return np.hstack(
            [self.counts[:, counts].toarray(), self.statics[:, statics].toarray(), self.about, self.levels]
        )

    def measured(self):
        """Does any row have the outcome's laboratory code?"""
        return bool((self.last_outcome_token >= 0).any())

    def last_value(self, measured):
        """A class of rows: the last level of the outcome's laboratory code where train rows have it, else how long ago the
        outcome last was."""
        if measured:
            return self.last_outcome_token
        days = np.nan_to_num(self.since, nan=np.inf)
        return np.digitize(days, [30, 365, 1e9])


def _log_loss(risk, y, w):
    return float(metrics.weighted_log_loss(risk, y, w[None])[0])


def _logistic(train, y, w, tuning, ty, tw):
    best = None
    for c in [0.001, 0.01, 0.1, 1.0]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=c, max_iter=200).fit(train, y, sample_weight=w)
        loss = _log_loss(model.predict_proba(tuning)[:, 1], ty, tw)
        if best is None or loss < best[0]:
            best = (loss, model, {"C": c})
    return best[1], best[2]


def _trees(train, y, w, tuning, ty, tw, seed):
    best = None
    for leaves in [4, 15]:
        model = HistGradientBoostingClassifier(learning_rate=0.08, max_iter=80, max_leaf_nodes=leaves, min_samples_leaf=20,
                                               l2_regularization=1.0, early_stopping=False, random_state=seed)  # fmt: skip
        model.fit(train, y, sample_weight=w)
        for n, p in enumerate(model.staged_predict_proba(tuning), 1):
            loss = _log_loss(p[:, 1], ty, tw)
            if n % 10 == 0 and (best is None or loss < best[0]):
                best = (loss, model, {"max_leaf_nodes": leaves, "trees": n})
    return best[1], best[2]


def _staged(model, x, n):
    for k, p in enumerate(model.staged_predict_proba(x), 1):
        if k == n:
            return p[:, 1]
    raise AssertionError("fewer trees than chosen")


def fit_all(train, tuning, test, weights, seed=1):
    """{name: (risks of the test rows, settings)}.  weights: of train and of tuning rows, 0 where the outcome is not known.
    A tuning split without both classes chooses nothing: then the train split does."""
    keep = (train.outcome >= 0) & (weights[0] > 0)
    y, w = train.outcome[keep].astype(float), weights[0][keep]
    known = (tuning.outcome >= 0) & (weights[1] > 0)
    chooser, ck = (tuning, known) if 0 < tuning.outcome[known].sum() < known.sum() else (train, keep)
    ty, tw = chooser.outcome[ck].astype(float), (weights[1] if chooser is tuning else weights[0])[ck]
    rate = float(w @ y / w.sum())
    out = {"prevalence": (np.full(test.outcome.size, rate), {})}
    classes, seen = (rows.last_value(train.measured()) for rows in (train, test))
    classes = classes[keep]
    risk = np.full(seen.size, rate)
    for c in np.unique(classes):
        i = classes == c
        risk[seen == c] = (w[i] @ y[i] + 10 * rate) / (w[i].sum() + 10)  # shrunk to the prevalence: ten rows' worth
    out["last value"] = (risk, {"classes": int(np.unique(classes).size)})
    model, settings = _logistic(train.linear()[keep], y, w, chooser.linear()[ck], ty, tw)
    out["logistic regression on counts"] = (model.predict_proba(test.linear())[:, 1], settings)
    frequent = np.asarray((train.counts > 0).sum(axis=0)).ravel()
    columns = np.sort(np.argsort(-frequent, kind="stable")[: TREE_TOKENS * len(WINDOWS_MINUTES)])
    columns = columns, np.flatnonzero(np.asarray(train.statics.sum(axis=0)).ravel() > 0)
    model, settings = _trees(train.trees(*columns)[keep], y, w, chooser.trees(*columns)[ck], ty, tw, seed)
    out["boosted trees on counts"] = (_staged(model, test.trees(*columns), settings["trees"]), settings)
    return out
