"""Checks the privacy suite's figures against slow, direct definitions.  Prints "ok - name" or "not ok - name"; exit 1 on any
failure."""

import math
from types import SimpleNamespace

import numpy as np
from sklearn.metrics import roc_auc_score

import attributes
import canaries
import copying
import privacy
import report_privacy
from checks import check, finish



def check_membership(rng):
    member, other = rng.normal(0.8, 1, 1500), rng.normal(0, 1, 1500)
    (m,) = privacy.membership({"loss": member}, {"loss": other}, 100, 1)
    check("membership: AUC of two normals, 0.714, far from chance",
          abs(m["auc"] - 0.714) < 0.02 and m["p"] < 1e-6 and m["interval"][0] < m["auc"] < m["interval"][1])  # fmt: skip
    check("AUC is scikit-learn's", abs(m["auc"] - roc_auc_score([1] * 1500 + [0] * 1500, np.r_[member, other])) < 1e-9)
    found = [privacy.tpr_at(rng.normal(0.8, 1, 1500), rng.normal(0, 1, 1500), 0.01) for _ in range(60)]
    check("6.35% of them are found at 1%", abs(np.mean(found) - 0.0635) < 0.008, str(np.mean(found)))
    box = m["tpr_at_1_percent_interval"]
    check("within the interval, and that of 0.1% is wider below",
          box[0] < 0.0635 < box[1] and m["tpr_at_0.1_percent_interval"][0] < box[0], str(m))  # fmt: skip
    threshold = sorted(other)[-16]
    check("found at 1% is the share above the 16th of 1500 others",
          m["tpr_at_1_percent"] == np.mean([x > threshold for x in member]))  # fmt: skip
    taken = [privacy.tpr_at(rng.normal(size=400), rng.normal(size=400), 0.01) for _ in range(60)]
    check("nobody is found where there is nothing", abs(np.mean(taken) - 0.01) < 0.006, str(np.mean(taken)))
    (few,) = privacy.membership({"loss": member[:40]}, {"loss": other[:40]}, 20, 1)
    check("shares too small for 40 others are not told", few["tpr_at_1_percent"] is None and few["tpr_at_0.1_percent"] is None)
    few = [privacy.membership({"loss": rng.normal(size=60)}, {"loss": rng.normal(size=15)}, 60, k)[0]["p"] for k in range(1500)]
    check("of 15 others no more than the level is told for nothing", sum(p < 0.01 for p in few) <= 22, f"{sum(p < 0.01 for p in few)} of 1500 below 0.01")
    loss = np.array([0.1, 5.0, 1.0, 2.0, 3.0, 0.2])
    s = privacy.scores({1: loss}, {1: loss + 0.5}, {1: (loss < 4, -1.0)})
    check("scores: mean, most surprising fifth, reference, law",
          np.allclose([s["loss"][0], s["min-k"][0], s["loss against the reference"][0], s["loss against the law"][0]],
                      [-loss.mean(), -4.0, 0.5, 1.0 - loss[loss < 4].mean()]), str(s))  # fmt: skip


def longest(a, b):
    """Of the runs of a, the longest that b has."""
    found = [n for n in range(1, len(a) + 1) for i in range(len(a) - n + 1) for j in range(len(b) - n + 1) if a[i : i + n] == b[j : j + n]]
    return max(found, default=0)


def check_copying(rng):
    letters = list("abcdefghijklmnop")
    train, others = ([list(rng.choice(letters, rng.integers(1, 40))) for _ in range(40)] for _ in range(2))
    train[7] = []
    copied = [list(t[:3]) + list(t[3:14]) + list(rng.choice(letters, 5)) for t in train if len(t) > 14][:10]
    fresh = [list(rng.choice(letters, 16)) for _ in range(12)]
    a, b = copying.numbered([*copied, *fresh, list("zzz")], [*train, *others])
    runs = copying.longest_shared(a, b)
    direct = [[longest(x, y) for y in [*train, *others]] for x in [*copied, *fresh, list("zzz")]]
    check("longest shared runs are those of a search", (runs == direct).all(), str(runs - np.array(direct)))
    jaccard = [[1 - len(set(x) & set(y)) / max(len(set(x) | set(y)), 1) for y in [*train, *others]] for x in [*copied, *fresh, list("zzz")]]
    check("distances are Jaccard's", np.allclose(copying.distances(a, b), jaccard))
    many = [f"c{i}" for i in range(80)]
    far = [[list(rng.choice(many, 25)) for _ in range(40)] for _ in range(2)]
    copies = [t[3:16] + list(rng.choice(many, 8)) for t in far[0][:12]]
    c = copying.measure(copies, *far, copies, [list(rng.choice(many, 21)) for _ in copies], 1)
    check("a model that copies is told", c["longest_shared_run"]["p"] < 0.01 and c["longest_shared_run"]["towards_train"] > 4
          and c["nearest_distance"]["p"] < 0.01 and c["against_recorded"]["p"] < 0.01, str(c))  # fmt: skip
    p = []
    for k in range(30):  # years that are longer than recorded ones lie nearer to any long record, of whomever
        pools = [[list(rng.choice(many, rng.integers(30, 60))) for _ in range(20)] for _ in range(2)]
        years = [[list(rng.choice(many, rng.integers(*size))) for _ in range(20)] for size in ((25, 50), (5, 25))]
        p.append(copying.measure(years[0], *pools, *years, k)["against_recorded"]["p"])
    check("a model that writes too much, but copies nobody, is no alarm", sum(x < 0.05 for x in p) <= 5, str(sorted(p)))
    p = []
    for _ in range(60):
        pools = [[list(rng.choice(letters, 12)) for _ in range(20)] for _ in range(2)]
        p.append(copying.compare(copying.longest_shared(*copying.numbered(fresh, pools[0] + pools[1])), 20, int(rng.integers(1000)))["p"])
    check("one that does not has p below 0.1 in about a tenth of 60 worlds", sum(x < 0.1 for x in p) <= 12 and np.mean(p) > 0.35, str(sorted(p)))
    closeness = rng.integers(0, 9, (3, 6)).astype(float)
    train_side = []
    for mask in range(64):
        side = np.array([mask >> k & 1 for k in range(6)], bool)
        if side.sum() == 3:
            train_side.append((closeness[:, side].max(1) - closeness[:, ~side].max(1)).mean())
    both = copying.compare(closeness, 3, 1)
    check("each side's mean is over all of its records", abs(both["train"] - np.mean([max(r[:3]) for r in closeness])) < 1e-12
          and abs(both["others"] - np.mean([max(r[3:]) for r in closeness])) < 1e-12)  # fmt: skip
    dealt = copying.deal(closeness, 3, 1, 4000)
    check("deals are those of all ways to deal six records", abs(dealt.mean() - np.mean(train_side)) < 0.1 and abs(dealt.std() - np.std(train_side)) < 0.1
          and set(np.round(dealt, 6)) == set(np.round(train_side, 6)))  # fmt: skip


def check_canaries(rng):
    references = rng.normal(50, 4, 1000)
    inserted = np.array([30.0, 50.0, 90.0, references[3]])
    rank = [1 + sum(r < x for r in references) + 0.5 * sum(r == x for r in references) for x in inserted]
    bits = canaries.exposures(inserted, references)
    check("exposure is log2 of candidates over rank", np.allclose(bits, [math.log2(1001) - math.log2(r) for r in rank]))
    check("the likeliest has log2(1001) bits, the last none", abs(bits[0] - 9.967) < 1e-3 and abs(bits[2]) < 1e-9)
    drawn = [canaries.exposures(rng.normal(50, 4, 50), rng.normal(50, 4, 1000)).mean() for _ in range(60)]
    check("without memory it is 1.44 on average", abs(np.mean(drawn) - canaries.by_chance(1000)) < 0.12 and abs(canaries.by_chance(1000) - 1.4364) < 1e-3, str(np.mean(drawn)))  # fmt: skip
    more = canaries.extrapolated(np.array([50.0, 30.0]), np.r_[references, 100 - references])
    check("extrapolated: one bit at the mean, more than the ranks can tell far below", abs(more[0] - 1) < 1e-9 and more[1] > 15, str(more))
    found = canaries.summarise(rng.normal(46, 4, 30), references, 100, 1)
    null = [canaries.summarise(rng.normal(50, 4, 30), references, 5, 1)["p"] for _ in range(40)]
    check("canaries that are remembered a little are told, others are not",
          found["p"] < 0.001 and found["interval"][0] > found["by_chance"] and sum(p < 0.05 for p in null) <= 5, f"{found} {null}")  # fmt: skip


def world(rng, n, advantage):
    """First mentions in n records: of 6 diagnoses, 0 and 1 sensitive; who was trained on is named more easily."""
    patient = np.repeat(np.arange(n), 3)
    token = rng.integers(0, 6, patient.size)
    logit = rng.normal(0, 1, (patient.size, 6))
    logit[np.arange(patient.size), token] += 0.5 + advantage
    chance = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    own = chance[np.arange(patient.size), token]
    columns = {"patient_key": patient.astype(np.uint64), "token": token, "rank_new": 1 + (chance > own[:, None]).sum(1),
               "loss": -np.log(own * 0.4), "p_new": np.full(patient.size, 0.4), "p_asked_new": 0.4 * chance[:, :2].sum(1)}  # fmt: skip
    return columns, chance


def check_attributes(rng):
    vocabulary = SimpleNamespace(event_kind=np.array(["diagnosis"] * 6 + ["lab"]), n=7)
    sensitive = np.arange(7) < 2
    columns, chance = world(rng, 300, 0.0)
    columns["rank_new"][::7] = 0  # not a first mention
    m = attributes.Mentions(columns, vocabulary, sensitive)
    rows = [i for i in range(900) if columns["rank_new"][i] > 0]
    mine = [i for i in rows if columns["token"][i] < 2]
    own = chance[np.arange(900), columns["token"]]
    f = {k: float(v[0]) for k, v in attributes.figures(m, np.ones((1, len(rows)))).items()}
    check("named at once, and within five, counted one by one",
          abs(f["named_of_1"] - np.mean([own[i] == chance[i].max() for i in mine])) < 1e-9
          and abs(f["named_of_5"] - np.mean([own[i] > chance[i].min() for i in mine])) < 1e-9)  # fmt: skip
    check("surprise is -log of the chance among new codes", abs(f["surprise"] + np.mean(np.log(own[mine]))) < 1e-6)
    auc = roc_auc_score([columns["token"][i] < 2 for i in rows], chance[rows][:, :2].sum(1))
    check("told apart as scikit-learn says", abs(f["auc"] - auc) < 1e-9, f"{f['auc']} {auc}")
    frequency, often = attributes.by_frequency(m, m), np.bincount(m.token, minlength=6) + 0.5
    named, surprise = [], []
    for k in np.unique(m.patient):
        left = set(range(6))
        for t in m.token[m.patient == k].tolist():
            left |= {t}
            if t < 2:
                named.append(1 + sum(often[q] > often[t] for q in left))
                surprise.append(-math.log(often[t] / sum(often[q] for q in left)))
            left -= {t}
    check("the guess by frequency is among what the record does not have yet of that kind",
          abs(frequency["named_of_1"] - np.mean([r <= 1 for r in named])) < 1e-9 and abs(frequency["surprise"] - np.mean(surprise)) < 1e-9
          and frequency["surprise"] < math.log(6), str(frequency))  # fmt: skip
    larger = SimpleNamespace(event_kind=np.array(["diagnosis"] * 6 + ["lab"] * 5000), n=5006)
    same = attributes.Mentions(columns, larger, np.arange(5006) < 2)
    check("however many codes of other kinds there are", attributes.by_frequency(same, same) == frequency, str(attributes.by_frequency(same, same)))
    one = attributes.Mentions({**columns, "token": np.where(columns["patient_key"] < 12, columns["token"], 5)}, vocabulary, sensitive)
    drawn = attributes.figures(one, np.stack([np.ones(one.token.size), one.patient >= 12]).astype(float))
    check("a resample without a sensitive code has no figure, not a perfect one", all(np.isfinite(v[0]) and np.isnan(v[1]) for v in drawn.values()), str(drawn))
    apart = attributes.compare(attributes.Mentions(world(rng, 300, 1.5)[0], vocabulary, sensitive), m, 100, 1)
    check("an advantage of those trained on is told", all(r["p"] < 0.01 and r["interval"][0] > 0 for r in apart["figures"] if r["figure"] != "named_of_5"), str(apart))  # fmt: skip
    null = [attributes.compare(*(attributes.Mentions(world(rng, 150, 0)[0], vocabulary, sensitive) for _ in range(2)), 60, k) for k in range(20)]  # fmt: skip
    low = sum(r["p"] < 0.05 for n in null for r in n["figures"])
    check("where there is none few p are small", low <= 12, f"{low} of 80")
    check("too few mentions are not judged", attributes.compare(m, attributes.Mentions(world(rng, 4, 0)[0], vocabulary, sensitive), 20, 1) is None)
    check("nor many of too few patients", attributes.compare(m, attributes.Mentions({**world(rng, 30, 0)[0], "patient_key": np.repeat(np.arange(6), 15).astype(np.uint64)},
          vocabulary, sensitive), 20, 1) is None)  # fmt: skip
    listed = attributes.patterns_of(attributes.LIST)
    check("the list of sensitive codes has patterns", len(listed) > 30 and "ICD10CM//B20" in listed)


def check_notes():
    def noted(source, split, **trained):
        s = SimpleNamespace(notes=[], dataset={"source": source, "settings": {"split": split}}, args=SimpleNamespace(data="d", reference=None))
        privacy.told_of(s, trained)
        return " ".join(s.notes)

    check("notes: splits of the source's own, an unknown training set, a checkpoint's parent", noted("omop", "patient", dataset_sha256="x") == ""
          and noted("oracle", "given", dataset_sha256="x") == "" and "another time or place" in noted("meds", "given", dataset_sha256="x")
          and "does not say" in noted("omop", "patient") and "continued from p" in noted("omop", "patient", dataset_sha256="x", parent="p"))  # fmt: skip


def check_alarms():
    found = {"membership": [{"attack": "loss", "p": 0.5}, {"attack": "min-k", "p": None}], "canaries": {"p": 1e-9},
             "copying": {"longest_shared_run": {"p": 0.04}, "nearest_distance": {"p": 0.9}}, "attributes": None,
             "identifiers": {"clean": False}}  # fmt: skip
    names, n = privacy.raise_alarms(found)
    check("alarms are of all tests together, identifiers always",
          names == ["canaries", "identifiers in what is generated"] and n == 4 and found["canaries"]["alarm"] and not found["copying"]["longest_shared_run"]["alarm"])  # fmt: skip
    said = report_privacy.summary({"alarms": [privacy.IDENTIFIERS], "tests": 4, "membership": []})
    check("an identifier is no alarm of the tests", "No alarm in 4 tests" in said and "identifiers" in said and "1 alarm" not in said, said)
    quiet = {"alarms": [], "tests": 4, "membership": [{"members": 480, "others": 60, "interval": [0.49, 0.643]}, {"members": 480, "others": 60, "interval": [0.52, 0.66]}]}
    said = report_privacy.summary(quiet)
    check("no alarm is told with what could not have been seen", "480" in said and "60 others" in said and "0.660" in said and "nothing here tells" not in said, said)


rng = np.random.default_rng(7)
check_membership(rng)
check_copying(rng)
check_canaries(rng)
check_attributes(rng)
check_notes()
check_alarms()
finish()
