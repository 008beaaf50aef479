"""Checks the few-shot probe against scikit-learn used by hand.  Prints "ok - name" or "not ok - name"; exit 1 on any failure."""


import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

import probe
from checks import check, finish



def world(rng, n, strength):
    """Twelve numbers a row, the first three of which tell of the outcome."""
    x = rng.normal(size=(n, 12))
    y = (rng.uniform(size=n) < 1 / (1 + np.exp(1 - strength * x[:, :3].sum(1)))).astype(int)
    return x, y


rng = np.random.default_rng(5)
x, y = zip(*(world(rng, n, 1.2) for n in (500, 150, 400)), strict=True)
noise = [rng.normal(size=a.shape) for a in x]
features = {"embedding": probe.scaled(*x), "counts": noise}
rows = probe.curve(features, y, np.arange(400), 100, 1)
few, last = {r["k"]: r for r in rows}, rows[-1]
check("k from 1 up to what there is, then all rows", [r["k"] for r in rows] == [*[k for k in probe.SHOTS if k <= y[0].sum()], None]
      and last["positives"] == y[0].sum() and last["negatives"] == 500 - y[0].sum())  # fmt: skip

scale = StandardScaler().fit(x[0])
fits = [LogisticRegression(C=c, max_iter=200).fit(scale.transform(x[0]), y[0]) for c in probe.PENALTIES]
best = min(fits, key=lambda m: log_loss(y[1], m.predict_proba(scale.transform(x[1]))[:, 1]))
direct = roc_auc_score(y[2], best.decision_function(scale.transform(x[2])))
check("from all rows it is scikit-learn's regression, its penalty chosen on the tuning rows", abs(last["embedding"]["auroc"] - direct) < 1e-9,
      f"{last['embedding']['auroc']} {direct}")  # fmt: skip
check("more labels, more skill", few[1]["embedding"]["auroc"] < few[16]["embedding"]["auroc"] < few[64]["embedding"]["auroc"] + 0.02 < last["embedding"]["auroc"] + 0.04, str(rows))  # fmt: skip
check("noise has none", all(abs(r["counts"]["auroc"] - 0.5) < 0.09 for r in rows), str([r["counts"]["auroc"] for r in rows]))
check("the difference is that of the two, and its interval is above nothing",
      all(abs(r["difference"] - r["embedding"]["auroc"] + r["counts"]["auroc"]) < 1e-12 for r in rows) and last["difference_interval"][0] > 0.1)  # fmt: skip
box = last["embedding"]["interval"]
boxes = []
for _ in range(400):
    i = rng.integers(0, 400, 400)
    boxes.append(roc_auc_score(y[2][i], best.decision_function(scale.transform(x[2]))[i]))
plain = np.percentile(boxes, [2.5, 97.5])
check("intervals resample test patients", np.allclose(box, plain, atol=0.35 * (plain[1] - plain[0])), f"{box} {plain}")
spread = few[1]["embedding"]
check("draws of one label each differ", spread["lowest"] < spread["auroc"] < spread["highest"])
i = probe.draw_shots(y[0], 8, rng)
check("shots are balanced, and of different rows", y[0][i].sum() == 8 and i.size == 16 == np.unique(i).size)
check("fewer where there are fewer", probe.draw_shots(np.r_[np.ones(3), np.zeros(40)], 8, rng).size == 11)
check("none where there is one class", probe.draw_shots(np.ones(5), 2, rng) is None)
again = probe.curve(features, y, np.arange(400), 100, 1)
check("the same seed, the same figures", again == rows)
alone = probe.curve({k: (a, b[:0], c) for k, (a, b, c) in features.items()}, (y[0], y[1][:0], y[2]), np.arange(400), 20, 1)
check("without tuning rows the rows that were learnt from choose", abs(alone[-1]["embedding"]["auroc"] - direct) < 0.02)
finish()
