"""Checks what evaluate.py makes of risks: recalibration, alarms for groups, figures of an outcome.  Prints "ok - name" or
"not ok - name"; exit 1 on any failure."""


import json
import pathlib
import tempfile
import types

import numpy as np

import compare
import fairness
import futures
import metrics
import outcome
import recalibrate
import suite
from checks import check, finish



def cohort(rng, n, harm=1.0):
    """Risks that are right, groups of unlike illness; harm: what the risks of group B are multiplied with."""
    group = np.where(rng.uniform(size=n) < 0.3, "B", "A")
    age = rng.choice(["young", "old"], n)
    truth = metrics.expit(rng.normal(-1.6, 1, n) + 0.8 * (group == "B") + 0.9 * (age == "old"))
    y = (rng.uniform(size=n) < truth).astype(float)
    risk = np.where(group == "B", truth * harm, truth)
    columns = {"risk": risk, "outcome": y, "patient_key": np.arange(n), "index_minutes": np.zeros(n)}
    return outcome.Rows(columns, {"GROUP": group, "AGE": age})


def alarms_of(rng, harm, n=600):
    """As in use: recalibration and threshold from tuning rows that suffer from the same harm."""
    tuning, held_out = cohort(rng, n, harm), cohort(rng, n, harm)
    if harm != 1:  # the harm is in the tuning records themselves: half of their outcomes are not there
        lost = (tuning.groups["GROUP"] == "B") & (rng.uniform(size=n) > harm)
        tuning.y[lost] = 0
    record = recalibrate.fit(tuning.risk, tuning.y, np.ones(n), 10)
    o = outcome.evaluate("o", {"horizon_minutes": "1440"}, held_out, recalibrate.seal(record), n_bootstrap=50, seed=1)
    return fairness.raise_alarms([o])


def check_alarms(rng):
    false = [bool(alarms_of(rng, 1.0)[0]) for _ in range(50)]
    check("a fair cohort raises an alarm in at most 5 of 50 seeds", sum(false) <= 5, f"{sum(false)} of 50")
    found = [alarms_of(rng, 0.5) for _ in range(8)]
    check("a group that lost half of its outcomes in training is flagged, 8 of 8",
          all(any(a["subgroup"] == "GROUP//B" and a["statistic"] == "log_oe" and a["gap"] > 0.3 for a in f[0]) for f in found),
          str([f[0] for f in found]))  # fmt: skip
    few = cohort(rng, 80)
    o = outcome.evaluate("few", {"horizon_minutes": "1440"}, few, n_bootstrap=20)
    judged = [s for s in o["subgroups"] if "tests" in s]
    check("groups with fewer than 20 positives are not judged", all(s["positive"] >= 20 for s in judged)
          and any(s["positive"] < 20 and "auroc" not in s for s in o["subgroups"]))  # fmt: skip


def check_p_values(rng):
    """Means of 15 normal values that are 0 in truth, by 200 resamples each."""
    small = {None: 0, 15: 0}
    for _ in range(2000):
        x = rng.normal(size=15)
        drawn = x[rng.integers(0, 15, (200, 15))].mean(axis=1)
        for effective in small:
            small[effective] += metrics.p_value(x.mean(), drawn, effective) < 0.01
    check("with few observations a p below 0.01 is as rare as it says, and is not by the normal",
          small[15] < 2000 * 0.02 < small[None], str(small))  # fmt: skip


def check_recalibration(rng):
    truth = metrics.expit(rng.normal(-1, 1, 40000))
    y = (rng.uniform(size=truth.size) < truth).astype(float)
    twisted = metrics.expit((metrics.logit(truth) - 0.7) / 0.5)
    record = recalibrate.fit(twisted, y, np.ones(y.size), 10)
    mended = recalibrate.apply(record, twisted)
    check("a twist of the log-odds is undone", abs(record["slope"] - 0.5) < 0.02 and abs(record["intercept"] - 0.7) < 0.03
          and np.abs(mended - truth).max() < 0.02, str(record))  # fmt: skip
    check(
        "the threshold alerts on one in ten of the tuning rows",
        abs((mended >= record["threshold"]).mean() - 0.1) < 1e-3,
    )
    shares = [(mended >= b["threshold"]).mean() * 100 for b in record["budgets"]]
    check("budgets keep to theirs", np.allclose(shares, recalibrate.BUDGETS, atol=0.02), str(shares))
    hundred = np.linspace(0.01, 0.9, 100)
    record = recalibrate.fit(hundred, (np.arange(100) % 2).astype(float), np.ones(100), 10)
    mapped = recalibrate.apply(record, hundred)
    shares = [int((mapped >= b["threshold"]).sum()) for b in record["budgets"]]
    check("and of a hundred rows alert on just as many", shares == recalibrate.BUDGETS, str(shares))
    tied = np.repeat([0.1, 0.5, 0.9], [80, 14, 6])
    record = recalibrate.fit(tied, np.zeros(100), np.ones(100), 10)
    shares = [int((tied >= b["threshold"] - 1e-12).sum()) for b in record["budgets"]]
    check("rows of one risk are not alerted on where all of them are too many, unless nobody would be",
          shares == [6, 6, 6, 6, 20], str(shares))  # fmt: skip
    few = np.flatnonzero(y == 1)[:9].tolist() + np.flatnonzero(y == 0)[:60].tolist()
    record = recalibrate.fit(twisted[few], y[few], np.ones(len(few)), 10)
    total = recalibrate.apply(record, twisted[few]).sum()
    check("nine positives move the mean alone", record["slope"] == 1 and abs(total - 9) < 1e-6, f"{record} {total}")
    record = recalibrate.fit(twisted[few[6:]], y[few[6:]], np.ones(len(few) - 6), 10)
    check(
        "three positives move nothing",
        record["slope"] == 1 and record["intercept"] == 0 and "nothing" in record["fitted"],
    )
    same = recalibrate.digest({"a": 1, "b": 2.5}) == recalibrate.digest({"b": 2.5, "a": 1})
    check("a digest is that of the content", same and recalibrate.digest({"a": 1}) != recalibrate.digest({"a": 2}))


def check_recalibration_of_weighted_rows(rng):
    """A weight of three is the row three times, in both kinds of fit; what is not known only counts as a row."""
    for n, least in [(400, 20), (60, 5)]:
        risk = metrics.expit(rng.normal(-1.5, 1, n))
        y = (rng.uniform(size=n) < risk**0.7).astype(float)
        if least == 5:
            y[np.flatnonzero(y)[9:]] = 0
        w = rng.integers(1, 4, n)
        i = np.repeat(np.arange(n), w)
        y[0] = -1
        i = i[i > 0]
        weighted = recalibrate.fit(risk, y, w.astype(float), 10)
        often = metrics.fit_logistic(np.column_stack([np.ones(i.size), metrics.logit(risk[i])]), y[i], np.ones((1, i.size)), [0.0, 1.0])[0]
        if least == 20:
            good = np.allclose([weighted["intercept"], weighted["slope"]], often, atol=1e-6)
        else:
            good = weighted["slope"] == 1 and abs(recalibrate.apply(weighted, risk[i]).sum() - y[i].sum()) < 1e-6
        check(f"recalibration of {n} rows goes by their weights", good and weighted["known"] == n - 1, str(weighted))
    risk = np.linspace(0.05, 0.9, 100)
    backwards = recalibrate.fit(risk, (np.arange(100) % 10 > risk * 10).astype(float), np.ones(100), 10)
    check("a map that would turn patients round is not made", backwards["slope"] == 1, str(backwards))
    y = np.ones(100)
    y[[3, 50, 80]] = 0
    check("few negatives are as few as few positives", recalibrate.fit(risk, y, np.ones(100), 10)["fitted"].startswith("nothing"))


def check_follow_up():
    """When each row's outcome was decided, and what stands in for those who were lost."""
    nan = np.nan
    by_hand = [  # outcome, event, censor, death; decided at, of a horizon of 1000
        (1, 300, 2000, nan, 300),
        (1, 300, 300, 300, 300),
        (1, nan, 800, nan, 1000),  # by a label file, the task sees no event
        (0, nan, 2000, 400, 400),  # nobody has it after death, however long the file goes on
        (0, nan, 1500, 1500, 1000),
        (0, nan, 2000, nan, 1000),
        (0, nan, 600, nan, 1000),  # a stay that ended without it: the answer is known for good
        (-1, nan, 500, nan, 500),
    ]
    y, event, censor, death, expected = np.array(by_hand, float).T
    n = y.size
    columns = {"risk": np.full(n, 0.5), "outcome": y, "patient_key": np.arange(n), "event_minutes": event,
               "censor_minutes": censor, "death_minutes": death}  # fmt: skip
    last, lost = outcome.Rows(columns).followed(1000)
    check("rows are followed until they are decided", last.tolist() == expected.tolist() and lost.tolist() == (y < 0).tolist(), str(last))
    # Four quarters of the risk; one of four is lost in the lowest, one of two in the highest.
    risk = np.r_[np.full(4, 0.1), np.full(4, 0.3), np.full(4, 0.6), np.full(4, 0.9)]
    y = np.array([-1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1, -1, -1, 1, 1.0])
    columns = {"risk": risk, "outcome": y, "patient_key": np.arange(16), "event_minutes": np.where(y == 1, 900, nan),
               "censor_minutes": np.where(y < 0, 500.0, 2000), "death_minutes": np.full(16, nan)}  # fmt: skip
    rows = outcome.Rows(columns)
    weight = np.where(y < 0, 0, np.repeat([4 / 3, 1, 1, 2], 4))
    check("who is left of a quarter of the risk stands for all of it", np.allclose(rows.weights(1000), weight), str(rows.weights(1000)))
    o = outcome.evaluate("o", {"horizon_minutes": "1000"}, rows, n_bootstrap=10)
    share = (4 / 3 + 1 + 2 + 4) / 16
    check("and so in the figures", abs(o["censoring_weighted"]["prevalence"] - share) < 1e-12 and o["censored"] == 3 and o["censoring_weighted"]["rows"] == 13,
          str(o["censoring_weighted"]))  # fmt: skip
    record = {"slope": 1.0, "intercept": 0.0, "threshold": 0.8, "alerts_per_100": 25, "fitted": "", "rows": 1, "positive": 1, "sha256": "",
              "budgets": [{"alerts_per_100": 25, "threshold": 0.8}]}  # fmt: skip
    rows.event = np.where(y == 1, np.where(risk < 0.8, 1440.0, 2880.0), nan)
    o = outcome.evaluate("o", {"horizon_minutes": "4000"}, rows, record, n_bootstrap=10)
    check("lead times are of those alerted on", o["budgets"][0]["lead_days"] == 2, str(o["budgets"]))


def check_intervals(rng):
    """Subgroup, recalibrated and paired intervals are those of a plain bootstrap over index arrays."""
    rows = cohort(rng, 300)
    rows.patient = np.repeat(np.arange(150), 2)  # two index times each
    record = {"slope": 0.8, "intercept": 0.1, "threshold": 0.25, "budgets": [], "alerts_per_100": 10, "fitted": "", "rows": 1,
              "positive": 1, "sha256": ""}  # fmt: skip
    other = np.clip(rows.risk + rng.normal(0, 0.2, 300), 0.01, 0.99)
    o = outcome.evaluate("o", {"horizon_minutes": "1440"}, rows, record, {"other": other}, n_bootstrap=60, seed=5)
    old = rows.groups["AGE"] == "old"
    mapped = recalibrate.apply(record, rows.risk)

    def plain(i):
        j = i[old[i]]
        return {
            "group": metrics.auroc(rows.risk[j], rows.y[j]),
            "mapped": metrics.brier(mapped[i], rows.y[i]),
            "paired": metrics.auroc(rows.risk[i], rows.y[i]) - metrics.auroc(other[i], rows.y[i]),
        }

    boxes = metrics.bootstrap(plain, rows.patient, 60, 5)
    group = next(s for s in o["subgroups"] if s["label"] == "old")
    check("interval of a group", np.allclose(group["interval"]["auroc"], boxes["group"]))
    check("interval of recalibrated risks", np.allclose(o["recalibrated"]["interval"]["brier"], boxes["mapped"]))
    check(
        "interval of a difference",
        np.allclose(o["baselines"][0]["ours_minus_it"]["interval"]["auroc"], boxes["paired"]),
    )
    check("and the figures themselves", abs(group["auroc"] - plain(np.arange(300))["group"]) < 1e-12
          and abs(o["recalibrated"]["brier"] - plain(np.arange(300))["mapped"]) < 1e-12)  # fmt: skip


def check_compare(rng):
    def verdicts(noise, seed):
        rng = np.random.default_rng(seed)
        rows = cohort(rng, 600)
        a = {
            "patient_key": rows.patient,
            "index_minutes": np.zeros(600),
            "outcome": rows.y,
            "group_AGE": rows.groups["AGE"],
        }
        a["risk"] = metrics.expit(metrics.logit(rows.risk) + rng.normal(0, 0.3, 600))
        b = {**a, "risk": metrics.expit(metrics.logit(rows.risk) + rng.normal(0, noise, 600))}
        turned = rng.permutation(600)
        pair = compare.paired(a, {k: v[turned] for k, v in b.items()})
        tests = compare.compare_outcome("o", *pair, 60, 1)
        compare.judge(tests)
        return a, b, tests

    same = sum(any(t["verdict"] in ("worse", "better") for t in verdicts(0.3, s)[2]) for s in range(20))
    check("two models of equal noise differ in at most 3 of 20 seeds", same <= 3, f"{same} of 20")
    a, b, tests = verdicts(2.0, 1)
    worse = [t["figure"] for t in tests if t["verdict"] == "worse" and t["group"] == "everybody"]
    check(
        "a much noisier one is worse",
        "auroc" in worse and "log_loss" in worse and not any(t["verdict"] == "better" for t in tests),
    )
    t = next(t for t in tests if t["group"] == "AGE//old" and t["figure"] == "auroc")
    old = a["group_AGE"] == "old"
    direct = metrics.auroc(b["risk"][old], b["outcome"][old]) - metrics.auroc(a["risk"][old], a["outcome"][old])
    check("a difference is that of the figures, whatever the order of rows", abs(t["difference"] - direct) < 1e-12)
    worse = []
    for k in range(200):  # three patients with the outcome, two models of one quality
        y = np.r_[np.ones(3), np.zeros(100)]
        shared = rng.normal(size=y.size) + 0.8 * y - 2
        mine, other = ({"patient_key": np.arange(y.size), "outcome": y, "risk": metrics.expit(shared + 0.7 * rng.normal(size=y.size))} for _ in range(2))
        worse += [t["p"] < 0.05 for t in compare.compare_outcome("o", mine, other, 60, k) if t["figure"] == "auroc" and t["p"] is not None]
    check("of three who had it, one model is not found worse than its like more often than it says", len(worse) > 150 and sum(worse) < 0.09 * len(worse), f"{sum(worse)} of {len(worse)}")
    one = {"patient_key": np.r_[np.zeros(5), np.arange(1, 60)], "outcome": np.r_[np.ones(5), np.zeros(59)]}
    alone = [compare.compare_outcome("o", *({**one, "risk": metrics.expit(rng.normal(size=64))} for _ in range(2)), 20, 1)]
    check("one patient who had it, in however many rows, is judged by nothing", all(t["p"] is None for t in alone[0]), str(alone))
    # The first patient has two stays that began together, of which the third report knows one.
    stays = {"patient_key": np.array([1, 1, 2, 3]), "index_minutes": np.array([5, 5, 5, 9.0]), "outcome": np.array([1, 0, 0, 1])}
    first, second = ({**stays, "risk": np.array(r)} for r in ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]))
    pair = compare.paired(first, second)
    check("rows of one patient and time keep to their own", [p["risk"].tolist() for p in pair] == [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], str(pair))
    pair = compare.paired(first, {k: v[1:] for k, v in second.items()})
    check("one of two is paired with neither", [p["risk"].tolist() for p in pair] == [[0.3, 0.4], [0.7, 0.8]], str(pair))
    suite.follow_up(first, {**stays, **{k: np.array([1.0, 2, 3, 4]) for k in suite.FOLLOWED}})
    check("and has its own follow-up", all(first[k].tolist() == [1, 2, 3, 4] for k in suite.FOLLOWED), str(first))
    itself = compare.compare_outcome("o", *compare.paired(a, a), 20, 1)
    compare.judge(itself)
    check(
        "a model does not differ from itself",
        all(t["difference"] in (0, None) and t["verdict"] != "worse" for t in itself),
    )


def check_futures(rng):
    """A law of its own for each patient: recorded and simulated from it are alike, from another are not."""

    def year(rate, codes):
        days = np.cumsum(rng.exponential(365 / rate, 60))
        return [(d, "event", str(c)) for d, c in zip(days, rng.choice(6, 60, p=codes)) if d < 365]

    def low(shift, gap=1.0):
        p = np.array([0.3, 0.25, 0.2, 0.15, 0.06, 0.04])
        q = np.roll(p, shift)
        rates = rng.uniform(8, 25, 40)
        r = futures.realism([year(x, p) for x in rates], [year(x * gap, q) for x in rates], 1, 40)
        return {t["distance"]: t["p"] for t in r["tests"]}

    fair = [low(0) for _ in range(10)]
    small = {k: sum(f[k] < 0.05 for f in fair) for k in fair[0]}
    check("futures of the same law have small p in at most 4 of 10 seeds", max(small.values()) <= 4, str(small))
    check("other codes are seen", low(2)["codes"] < 0.03 and low(2)["codes together"] < 0.03)
    slow = low(0, 0.6)
    check("longer gaps and fewer events are seen", slow["gaps"] < 0.03 and slow["events a year"] < 0.03, str(slow))


def check_futures_of_another_dataset():
    """One report folder, the same patient row of two datasets: what was generated for one is not taken for the other."""
    folder = tempfile.TemporaryDirectory()
    work = pathlib.Path(folder.name)
    s = object.__new__(suite.Suite)
    s.work, s.model, s.seconds, s.cpu, s.cpu_before = work, "m", {}, {}, 0

    def generate(words, log):
        events = [{"days": 1, "kind": "event", "code": pathlib.Path(words[words.index("--data") + 1]).name}]
        pathlib.Path(words[-1]).write_text(json.dumps({"kind": "recorded", "events": events}) + "\n")
        return 0, ""

    real, suite.command, codes = suite.command, generate, []
    for name in ("a", "b", "b"):
        (work / name).mkdir(exist_ok=True)
        (work / name / "dataset.json").write_text(json.dumps({"name": name}))
        s.args = types.SimpleNamespace(data=work / name, checkpoint="c", seed=1)
        codes += [e[2] for e in futures.generate(s, [(0, 1.0)], 1)[0]["recorded"]]
    made, out = [], work / "made.h5"
    for by in ("yesterday", "yesterday", "today"):
        s.made_by = {"ehr-infer": by}
        made.append(s._fresh(out, {"limit": 1}))
        out.write_text("")
    suite.command = real
    folder.cleanup()
    check("what another program made is made anew", made == [False, True, False], str(made))
    check("futures of another dataset are generated anew", codes == ["a", "b", "b"], str(codes))


rng = np.random.default_rng(7)
check_recalibration(rng)
check_recalibration_of_weighted_rows(np.random.default_rng(9))
check_follow_up()
check_intervals(rng)
check_p_values(np.random.default_rng(8))
check_alarms(rng)
check_compare(rng)
check_futures(rng)
check_futures_of_another_dataset()
finish()
