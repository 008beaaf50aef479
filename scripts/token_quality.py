"""How well single tokens are predicted: loss and accuracy by kind of token and by place in the record, the excess over the
floor, and whether the chances mean what they say.

Chances of the next token: of the likeliest token (is it right as often as its chance says?) and of each kind of event (does
it come as often?).  Lengths of gaps: where among the gaps that the model held possible the one that came lies; were the
model right every tenth of its law would hold a tenth of the gaps (probability integral transform, not randomised: Czado,
Gneiting and Held 2009).  A gap that was still open when observation ended is spread over what was left of its law
(D-calibration, Haider 2020).  Intervals resample patients.

An error that is a mean of distances is never 0 and has no interval about it: it stands beside what it would be by chance were
the model right.  What then comes less what was expected is noise that knows nothing of what was before (a martingale), so that
its variances add up whoever's record it is of."""

import time

import numpy as np

import metrics
import shards
import suite

PLACES = [(0, 16), (16, 64), (64, 256), (256, 1024), (1024, None)]
TOP = [1, 5, 10]
BINS = 10
COLUMNS = ["patient_key", "index", "token", "rank", "best", "loss", "p_best", "gap_below", "gap_at", "kinds"]


def measure(s, patients):
    """Targets of the first held-out patients by `ehr-infer score`."""
    out = s.work / "score-tokens.h5"
    if not s._fresh(out, {"model": s.model, "dataset": shards.sha256(s.args.data / "dataset.json"), "limit": patients, "detail": 1}):
        suite.say("loss of held-out tokens")
        started = time.time()
        words = [suite.program("ehr-infer"), "score", s.args.checkpoint, "--data", s.args.data, "--split", "held_out",
                 "--limit", patients, "--events", 0, "--detail", out]  # fmt: skip
        rc, end = suite.command(words, out.with_suffix(".log"))
        s.timed("token losses", started)
        if rc:
            raise shards.BadFile(f"ehr-infer score failed:\n{end}")
    columns, attributes = shards.read_table(out, COLUMNS, "a table of targets", "`ehr-infer score --detail`")
    started = time.time()
    found = summarise(columns, attributes["kinds"].split(","), oracle_of(s, columns), shards.Vocabulary(s.args.data, s.dataset), s.args.seed)  # fmt: skip
    s.timed("figures", started)
    return found


def oracle_of(s, columns):
    """log p of the targets under the law that drew them, NaN where it is not counted; None without an oracle."""
    if not s.dataset.get("floor_valid"):
        return None
    split = shards.Split(s.args.data, s.dataset, "held_out")
    place = {int(k): i for i, k in enumerate(split.column("patient_key").tolist())}
    keys, row = np.unique(columns["patient_key"], return_inverse=True)
    begin, tokens, logp, n = np.zeros(keys.size, np.int64), [], [], 0
    for i, t, _, _, q in split.timelines([place[int(k)] for k in keys], ["oracle_logp"]):
        begin[i] = n
        n += t.size
        tokens.append(t)
        logp.append(q)
    tokens, logp = np.concatenate(tokens), np.concatenate(logp).astype(float)
    told = columns["index"] >= 0
    at = begin[row[told]] + columns["index"][told]
    if (at >= n).any() or not np.array_equal(tokens[at], columns["token"][told]):
        raise shards.BadFile(f"{s.args.data}: its held-out tokens are not those that were scored: remove {s.work}")
    out = np.full(told.size, np.nan)
    out[told] = logp[at]
    return out


class Patients:
    """Which targets are whose, and the same resamples of patients for every figure."""

    def __init__(self, patient, seed, n=400):
        self.ids, self.member = np.unique(patient, return_inverse=True)
        rng = np.random.default_rng(seed)
        draws = rng.integers(0, max(self.ids.size, 1), (n, self.ids.size))
        self.weight = np.stack([np.bincount(d, minlength=self.ids.size) for d in draws]).astype(float)

    def ratio(self, above, below, at):
        """sum of `above` over sum of `below`, of the targets `at`: (value, interval)."""
        a, b = (np.bincount(self.member[at], x, self.ids.size) for x in (above, below))
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (self.weight @ a) / (self.weight @ b)
        return float(a.sum() / b.sum()) if b.sum() else None, metrics.interval(drawn)

    def mean(self, values, at):
        return self.ratio(values, np.ones(at.size), at)


# ---- loss and accuracy --------------------------------------------------------------------------------------------------


def entry(p, columns, excess, at):
    """Figures of the targets `at`."""
    mean, box = p.mean(columns["loss"][at], at)
    e = {"n": int(at.size), "mean": mean, "interval": box}
    for k in TOP:
        e[f"top_{k}"], e[f"top_{k}_interval"] = p.mean((columns["rank"][at] <= k).astype(float), at)
    if excess is not None and np.isfinite(excess[at]).any():
        e["excess"], e["excess_n"] = float(np.nanmean(excess[at])), int(np.isfinite(excess[at]).sum())
    return e


def summarise(columns, kinds, oracle, vocabulary, seed):
    columns = {k: np.asarray(v) for k, v in columns.items()}
    token = columns["token"].astype(int)
    told = np.flatnonzero((columns["index"] >= 0) & (columns["rank"] > 0))
    p = Patients(columns["patient_key"], seed)
    excess = None
    kind = np.where(vocabulary.is_event[token], vocabulary.event_kind[token], vocabulary.kind[token])
    out = {"patients": int(p.ids.size)}
    if oracle is not None:
        excess = columns["loss"] + oracle
        good = told[np.isfinite(excess[told])]
        if good.size:
            mean, box = p.mean(excess[good], good)
            out["excess"] = {"n": int(good.size), "mean": mean, "interval": box}
    out["all"] = entry(p, columns, excess, told)
    out["by_kind"] = [{"kind": str(k), **entry(p, columns, excess, told[kind[told] == k])} for k in sorted(set(kind[told]))]
    out["by_place"] = []
    for low, high in PLACES:
        at = told[(columns["index"][told] >= low) & (columns["index"][told] < (high or np.inf))]
        if at.size:
            out["by_place"].append({"from": low, "to": high, **entry(p, columns, excess, at)})
    out["likeliest"] = reliability(p, columns["p_best"][told], (columns["best"] == columns["token"])[told], told)
    out["kinds"] = kind_calibration(p, columns, kinds, kind, told)
    out["gaps"] = gap_calibration(p, columns, vocabulary)
    return out


# ---- calibration ---------------------------------------------------------------------------------------------------------


def distance_by_chance(variance):
    """Mean distance from 0 of a normal with mean 0."""
    return float(np.sqrt(2 * max(variance, 0) / np.pi))


def reliability(p, chance, came, at):
    """Bins of equal size by chance: mean chance, share that came; the expected calibration error over them."""
    order = np.argsort(chance, kind="stable")
    parts = [i for i in np.array_split(order, min(BINS, chance.size)) if i.size]
    rows, missed, by_chance = [], 0.0, 0.0
    for i in parts:
        share, box = p.mean(came[i].astype(float), at[i])
        rows.append({"chance": float(chance[i].mean()), "share": share, "interval": box, "n": int(i.size)})
        missed += abs(float(np.sum(chance[i] - came[i])))
        by_chance += distance_by_chance(float(np.sum(chance[i] * (1 - chance[i]))))
    ratio, ratio_box = p.ratio(came.astype(float), chance, at)
    return {"bins": rows, "ece": missed / chance.size, "ece_by_chance": by_chance / chance.size,
            "observed_over_expected": ratio, "interval": ratio_box}  # fmt: skip


def kind_calibration(p, columns, kinds, kind, told):
    out = []
    for k, name in enumerate(kinds):
        chance, came = columns["kinds"][told, k].astype(float), kind[told] == name
        if came.any() or chance.sum() > 1:
            out.append({"kind": name, "expected": float(chance.sum()), "observed": int(came.sum()), **reliability(p, chance, came, told)})
    return out


def gap_calibration(p, columns, vocabulary):
    """Share of the gaps in each tenth of the model's law of their length."""
    at = np.flatnonzero(np.isfinite(columns["gap_below"]))
    if not at.size:
        return None
    below, mass = columns["gap_below"][at], columns["gap_at"][at]
    censored = columns["rank"][at] == 0
    above = np.where(censored, 1, np.minimum(below + mass, 1))
    width = np.maximum(above - below, 1e-12)
    edges = np.linspace(0, 1, BINS + 1)
    inside = np.minimum(above[:, None], edges[1:]) - np.maximum(below[:, None], edges[:-1])
    share = np.clip(inside, 0, None) / width[:, None]
    share /= np.maximum(share.sum(1, keepdims=True), 1e-12)  # a law without mass where the gap came: nothing to add
    bins = [dict(zip(("share", "interval"), p.mean(share[:, b], at), strict=True)) for b in range(BINS)]
    beyond = share - 1 / BINS
    return {"gaps": int((~censored).sum()), "open": int(censored.sum()), "bins": bins,
            "error": float(np.abs(beyond.mean(0)).sum() / 2),
            "error_by_chance": sum(distance_by_chance(v) for v in (beyond**2).sum(0)) / at.size / 2}  # fmt: skip
