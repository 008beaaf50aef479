"""Checks the figures of token_quality.py against slow, direct definitions and scikit-learn.  Prints "ok - name" or "not ok -
name"; exit 1 on any failure."""

from types import SimpleNamespace

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, top_k_accuracy_score

import report_tokens
import token_quality
from checks import check, finish

KINDS = ["gap", "value", "lab", "drug"]
# Tokens 0 to 3 are gaps, 4 to 8 labs, 9 to 13 drugs.
VOCABULARY = SimpleNamespace(
    n=14,
    kind=np.array(["gap"] * 4 + ["event"] * 10),
    event_kind=np.array([""] * 4 + ["lab"] * 5 + ["drug"] * 5),
    is_event=np.arange(14) >= 4,
)
KIND = np.array([0] * 4 + [2] * 5 + [3] * 5)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def world(rng, n, twist=1.0, gap_twist=0.0):
    """Targets drawn from a law, described by the law with its logits times `twist`, and gaps said to be longer or shorter."""
    logit = rng.normal(0, 1.2, (n, 14))
    law = softmax(logit)
    token = (law.cumsum(1) > rng.uniform(size=(n, 1))).argmax(1)
    said_logit = logit * twist
    said_logit[:, :4] += gap_twist * np.arange(4)
    said = softmax(said_logit)
    own = said[np.arange(n), token]
    gap = said[:, :4] / said[:, :4].sum(1, keepdims=True)
    below = np.array([gap[i, : token[i]].sum() if token[i] < 4 else np.nan for i in range(n)])
    at = np.array([gap[i, token[i]] if token[i] < 4 else np.nan for i in range(n)])
    columns = {
        "patient_key": np.sort(rng.integers(0, n // 12 + 1, n)).astype(np.uint64), "index": np.arange(n) % 90, "token": token,
        "rank": 1 + (said > own[:, None]).sum(1), "best": said.argmax(1), "loss": -np.log(own), "p_best": said.max(1),
        "gap_below": below, "gap_at": at,
        "kinds": np.stack([said[:, KIND == k].sum(1) for k in range(4)], 1),
    }  # fmt: skip
    return columns, said, law


def figures(columns, oracle=None):
    return token_quality.summarise(columns, KINDS, oracle, VOCABULARY, 1)


def check_losses(rng):
    c, said, law = world(rng, 3000)
    c["index"][::50] = -1  # after the record's end: no recorded token
    told = c["index"] >= 0
    oracle = np.log(law[np.arange(3000), c["token"]])
    oracle[:40] = np.nan
    r = figures(c, oracle)
    labels = np.arange(14)
    check("loss is scikit-learn's log loss", abs(r["all"]["mean"] - log_loss(c["token"][told], said[told], labels=labels)) < 1e-9)
    for k in (1, 5, 10):
        direct = top_k_accuracy_score(c["token"][told], said[told], k=k, labels=labels)
        check(f"accuracy in the likeliest {k} is scikit-learn's", abs(r["all"][f"top_{k}"] - direct) < 1e-9)
    lab = told & (KIND[c["token"]] == 2)
    e = next(e for e in r["by_kind"] if e["kind"] == "lab")
    check("by kind", e["n"] == lab.sum() and abs(e["mean"] - c["loss"][lab].mean()) < 1e-9 and abs(e["top_5"] - (c["rank"][lab] <= 5).mean()) < 1e-9)
    place = told & (c["index"] >= 16) & (c["index"] < 64)
    e = next(e for e in r["by_place"] if e["from"] == 16)
    check("by place", e["n"] == place.sum() and abs(e["mean"] - c["loss"][place].mean()) < 1e-9)
    good = told & np.isfinite(oracle)
    check("excess over the floor", abs(r["excess"]["mean"] - (c["loss"] + oracle)[good].mean()) < 1e-9 and r["excess"]["n"] == good.sum())
    part = report_tokens.loss_table(r)
    check("that the floor is not known of all tokens is told", f"known of {good.sum()} of the {told.sum()} tokens" in part
          and r["all"]["excess_n"] == good.sum() and "known of" not in report_tokens.loss_table(figures(c, np.log(law[np.arange(3000), c["token"]]))), part[-300:])  # fmt: skip
    keys, boxes = np.unique(c["patient_key"][told]), []
    mine = {k: np.flatnonzero(told & (c["patient_key"] == k)) for k in keys}
    for _ in range(400):
        boxes.append(c["loss"][np.concatenate([mine[k] for k in rng.choice(keys, keys.size)])].mean())
    direct = np.percentile(boxes, [2.5, 97.5])
    check("intervals resample patients", np.allclose(r["all"]["interval"], direct, atol=0.25 * (direct[1] - direct[0])), f"{r['all']['interval']} {direct}")


def check_calibration(rng):
    c, said, _ = world(rng, 6000)
    r = figures(c)
    came, chance = c["best"] == c["token"], c["p_best"]
    share, mean = calibration_curve(came, chance, n_bins=10, strategy="quantile")
    bins = r["likeliest"]["bins"]
    check("bins of the likeliest token are scikit-learn's", np.allclose([b["share"] for b in bins], share, atol=2e-3)
          and np.allclose([b["chance"] for b in bins], mean, atol=2e-3))  # fmt: skip
    direct = sum(b["n"] * abs(b["chance"] - b["share"]) for b in bins) / 6000
    check("the calibration error is the mean distance over bins", abs(r["likeliest"]["ece"] - direct) < 1e-12)
    box = r["likeliest"]["interval"]
    check("a right law is calibrated", box[0] < 1 < box[1] and r["likeliest"]["ece"] < 0.03)
    for k in r["kinds"]:
        i = KINDS.index(k["kind"])
        if abs(k["expected"] - said[:, KIND == i].sum()) > 1e-6 or k["observed"] != (KIND[c["token"]] == i).sum():
            check(f"expected and observed of {k['kind']}", False, str(k))
    check("expected and observed of each kind", {k["kind"] for k in r["kinds"]} == {"gap", "lab", "drug"})
    right = [figures(world(rng, 2000)[0]) for _ in range(30)]
    for name, pairs in (("the likeliest token", [(r["likeliest"]["ece"], r["likeliest"]["ece_by_chance"]) for r in right]),
                        ("labs", [(k["ece"], k["ece_by_chance"]) for r in right for k in r["kinds"] if k["kind"] == "lab"]),
                        ("gaps", [(r["gaps"]["error"], r["gaps"]["error_by_chance"]) for r in right])):  # fmt: skip
        error, chance = np.mean(pairs, axis=0)
        check(f"what the error of a right law would be by chance is what it is: {name}", abs(error / chance - 1) < 0.15, f"{error} {chance}")
    sure = figures(world(rng, 6000, twist=1.8)[0])["likeliest"]
    check("a law that is too sure of itself is told", sure["ece"] > 0.05 > 3 * sure["ece_by_chance"] and sure["interval"][1] < 0.95, str(sure))


def check_gaps(rng):
    c, said, _ = world(rng, 6000)
    g = figures(c)["gaps"]
    share = np.zeros(10)
    is_gap = np.flatnonzero(c["token"] < 4)
    for i in is_gap:  # a point of each gap's part of the law, many times over
        u = c["gap_below"][i] + c["gap_at"][i] * (np.arange(400) + 0.5) / 400
        share += np.bincount(np.minimum((u * 10).astype(int), 9), minlength=10) / 400
    share /= is_gap.size
    check("tenths of the law of gaps are those of points spread over each gap's part", np.allclose([b["share"] for b in g["bins"]], share, atol=2e-3))
    check("a right law puts a tenth in each", g["error"] < 0.025 and g["gaps"] == is_gap.size and g["open"] == 0, str(g))
    short = figures(world(rng, 6000, gap_twist=-0.6)[0])["gaps"]
    check("gaps longer than said fill the last tenths", short["bins"][9]["interval"][0] > 0.12 and short["error"] > 0.04 > 2 * short["error_by_chance"], str(short))
    # Observation that ends at random: a gap is then known only to be longer than what had passed.
    c, said, _ = world(rng, 6000)
    for i in np.flatnonzero(c["token"] < 4):
        cut = rng.integers(0, 5)
        if cut <= c["token"][i]:
            law = said[i, :4] / said[i, :4].sum()
            c["gap_below"][i], c["gap_at"][i], c["rank"][i], c["token"][i] = law[:cut].sum(), 0, 0, cut
    g = figures(c)["gaps"]
    check("gaps that were still open count over what was left of the law", g["open"] > 300 and g["error"] < 0.03, str(g))
    check("and count in no loss", figures(c)["all"]["n"] == (c["rank"] > 0).sum())


rng = np.random.default_rng(11)
check_losses(rng)
check_calibration(rng)
check_gaps(rng)
finish()
