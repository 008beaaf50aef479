"""Checks the alarms for groups against slow, direct definitions and against chance.  Prints "ok - name" or "not ok - name";
exit 1 on any failure."""


import numpy as np
from scipy import stats

import fairness
import metrics
import recorded
from checks import check, finish



def check_tail(rng):
    """Against all sums that there are, by convolution; half of the sum's own probability counts."""
    worst = normal = 0.0
    for n, low, high in [(60, 0.02, 0.2), (400, 0.01, 0.05), (1000, 0.05, 0.3)]:
        p = rng.uniform(low, high, n)
        law = np.ones(1)
        for q in p:
            law = np.convolve(law, [1 - q, q])
        for hits in np.flatnonzero((law > 1e-9) & (np.arange(law.size) >= 5)):
            y = np.zeros(n)
            y[:hits] = 1
            above = law[hits + 1 :].sum() + law[hits] / 2
            exact = 2 * min(above, 1 - above)
            if 1e-7 < exact < 0.5:
                worst = np.maximum(worst, abs(np.log(fairness.tail(np.ones(n), p, y) / exact)))
                z = abs(hits - p.sum()) / np.sqrt((p * (1 - p)).sum())
                normal = np.maximum(normal, abs(np.log(2 * stats.norm.sf(z) / exact)))
    check("tails of a sum of outcomes are those of all sums there are within a fifth, where a normal's are a hundred times off",
          worst < np.log(1.2) and normal > np.log(100), f"{np.exp(worst)} {np.exp(normal)}")  # fmt: skip
    p, y, a = rng.uniform(0.05, 0.4, 50), rng.integers(0, 2, 50).astype(float), rng.normal(size=50)
    often = rng.integers(1, 4, 50)
    rows = np.repeat(np.arange(50), often)
    check("a cell of n is n rows", abs(fairness.tail(a, p, y, 1.3, often) - fairness.tail(a[rows], p[rows], y[rows], 1.3)) < 1e-9)
    check("no outcome, no test", fairness.tail(np.zeros(50), p, y) is None)


def check_adjusted(rng):
    for _ in range(30):
        p = rng.uniform(size=15) ** 3
        direct = stats.false_discovery_control(p)
        weight = rng.choice([1.0, 4.0], 15)
        q = np.minimum(p * weight.mean() / weight, 1e9)
        order = sorted(range(15), key=lambda i: q[i])
        k = max([r + 1 for r in range(15) if q[order[r]] <= 0.05 * (r + 1) / 15], default=0)
        if not np.allclose(fairness.adjusted(p, np.ones(15)), direct) or set(np.flatnonzero(fairness.adjusted(p, weight) <= 0.05)) != set(order[:k]):
            check("p after correction", False, str(p))
            return
    check("p after correction is scipy's, and with weights rejects the k smallest of p over weight", True)


def check_size(rng):
    """Right risks, and a group of 150 rows with about 20 positives; two rows a patient, whose outcomes go together."""
    small = {k: [0, 0] for k in ("log_oe", "slope", "tpr_excess")}
    tolerated, fairness.TOLERATED = fairness.TOLERATED, 0.0
    for _ in range(600):
        patient = np.repeat(np.arange(400), 2)
        x = np.repeat(rng.normal(-2, 0.8, 400), 2)
        u = np.repeat(rng.uniform(size=400), 2)
        y = (np.where(rng.uniform(size=800) < 0.5, u, rng.uniform(size=800)) < metrics.expit(x)).astype(float)
        group = patient < 75
        for k, p in fairness.Judge(metrics.expit(x), y, patient, 0.25)(group).items():
            small[k][0] += p < 0.05
            small[k][1] += p < 0.01
    fairness.TOLERATED = tolerated
    check("of right risks 5% have a p below 0.05, and 1% below 0.01", all(15 <= a <= 45 and b <= 14 for a, b in small.values()), str(small))
    x = rng.normal(-2, 0.8, 40000)
    group = np.arange(40000) < 20000
    off = {}
    for ratio in (1.04, 1.25):
        y = (rng.uniform(size=40000) < metrics.expit(x + np.log(ratio) * group)).astype(float)
        off[ratio] = fairness.Judge(metrics.expit(x), y, np.arange(40000))(group)["log_oe"]
    check("odds off by 4% are tolerated however many the patients, by 25% they are not", off[1.04] > 0.5 and off[1.25] < 1e-4, str(off))
    y = (rng.uniform(size=40000) < metrics.expit(1.6 * x + 0.9)).astype(float)
    all_off = fairness.Judge(metrics.expit(x), y, np.arange(40000), 0.3)(group)
    check("risks that are wrong for everybody alike are no matter of groups", min(all_off.values()) > 0.001, str(all_off))
    y = (rng.uniform(size=40000) < metrics.expit(np.where(group, 0.6 * x - 0.9, x))).astype(float)
    flat = fairness.Judge(metrics.expit(x), y, np.arange(40000), 0.3)(group)
    check("a group whose risks are too extreme is told by its slope", flat["slope"] < 1e-9, str(flat))


def world(rng, harm=1.0, n=1200):
    """Chances of the next event over whole records, of patients whose illness shows in their own events; harm: what the
    chances of group B are multiplied with."""
    places = rng.integers(20, 90, n)
    member = np.repeat(np.arange(n), places)
    group = np.where(rng.uniform(size=n) < 0.2, "B", "A")
    chance = metrics.expit(rng.normal(-4.2, 1.0, member.size) + np.repeat(rng.normal(0, 0.8, n), places) + 0.5 * (group[member] == "B"))
    y = (rng.uniform(size=member.size) < chance).astype(int)
    columns = {"patient_key": member.astype(np.uint64), "token": y, "p_asked": chance * np.where(group[member] == "B", harm, 1.0)}
    return columns, {"GROUP": group, "SEX": rng.choice(["F", "M"], n)}


def check_recorded(rng):
    mark = np.array([False, True])
    columns, groups = world(rng)
    r = recorded.summarise(columns, mark, groups, 300, 1)
    y, p, b = columns["token"], columns["p_asked"], groups["GROUP"][columns["patient_key"].astype(int)] == "B"
    mine = next(g for g in r["groups"] if g["label"] == "B")
    check("events and chances are added up", r["observed"] == y.sum() and mine["observed"] == y[b].sum()
          and abs(r["oe"] - y.sum() / p.sum()) < 1e-9 and abs(mine["expected"] - p[b].sum()) < 1e-6
          and abs(mine["tests"][0]["gap"] - np.log(y[b].sum() / p[b].sum() * p[~b].sum() / y[~b].sum())) < 1e-9)  # fmt: skip
    of = [np.flatnonzero(columns["patient_key"] == k) for k in range(1200)]
    boxes = []
    for _ in range(300):
        i = np.concatenate([of[k] for k in rng.integers(0, 1200, 1200)])
        boxes.append(y[i][b[i]].sum() / p[i][b[i]].sum())
    direct = np.percentile(boxes, [2.5, 97.5])
    check("intervals resample patients", np.allclose(mine["interval"], direct, atol=0.25 * (direct[1] - direct[0])), f"{mine['interval']} {direct}")
    columns, groups = world(rng, 0.75)
    judge = fairness.Judge(columns["p_asked"], columns["token"].astype(float), columns["patient_key"])
    direct = judge.log_oe(groups["GROUP"][columns["patient_key"].astype(int)] == "B")
    mine = next(g for g in recorded.summarise(columns, mark, groups, 2, 1)["groups"] if g["label"] == "B")
    check("places put together by their chances give the test of them all", abs(np.log(mine["tests"][0]["p"] / direct)) < 0.05,
          f"{mine['tests'][0]['p']} {direct}")  # fmt: skip

    def alarms(harm):
        return fairness.raise_alarms([], [{"name": "o", **recorded.summarise(*(lambda c, g: (c, mark, g))(*world(rng, harm)), 2, 1)}])[0]

    false = sum(bool(alarms(1.0)) for _ in range(50))
    found = [alarms(0.6) for _ in range(8)]
    check("right chances raise an alarm in at most 5 of 50 worlds", false <= 5, f"{false} of 50")
    check("a group that has six tenths of its chances is found, 8 of 8", all(any(a["subgroup"] == "GROUP//B" and a["gap"] > 0.3 for a in f) for f in found), str(found))


rng = np.random.default_rng(13)
check_tail(rng)
check_adjusted(rng)
check_size(rng)
check_recorded(rng)
finish()
