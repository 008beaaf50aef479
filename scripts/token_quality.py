"""How well single tokens are predicted: loss by kind of token and by place in the record, and the excess over the floor."""

import time

import numpy as np

import metrics
import shards
import suite

PLACES = [(0, 16), (16, 64), (64, 256), (256, 1024), (1024, None)]


def measure(s, patients):
    """Losses of the first held-out patients by `ehr-infer score`."""
    out = s.work / "score-tokens.h5"
    if not s._fresh(out, {"model": s.model, "dataset": shards.sha256(s.args.data / "dataset.json"), "limit": patients}):
        suite.say("loss of held-out tokens")
        started = time.time()
        words = [suite.program("ehr-infer"), "score", s.args.checkpoint, "--data", s.args.data, "--split", "held_out",
                 "--limit", patients, "--events", 0, "--tokens", out]  # fmt: skip
        rc, end = suite.command(words, out.with_suffix(".log"))
        s.timed("token losses", started)
        if rc:
            raise shards.BadFile(f"ehr-infer score failed:\n{end}")
    columns, _ = shards.read_table(
        out, ["patient_key", "index", "token", "loss"], "a table of tokens", "`ehr-infer score --tokens`"
    )
    return summarise(columns, oracle_of(s, columns), shards.Vocabulary(s.args.data, s.dataset), s.args.seed)


def oracle_of(s, columns):
    """log p of the tokens under the law that drew them, NaN where it is not counted; None without an oracle."""
    if not s.dataset.get("floor_valid"):
        return None
    split = shards.Split(s.args.data, s.dataset, "held_out")
    n = int(np.unique(columns["patient_key"]).size)
    tokens, logp = [], []
    for _, t, _, _, q in split.timelines(np.arange(n), ["oracle_logp"]):
        tokens.append(t)
        logp.append(q)
    if not tokens or not np.array_equal(np.concatenate(tokens), columns["token"]):
        raise shards.BadFile(f"{s.args.data}: its held-out tokens are not those that were scored: remove {s.work}")
    return np.concatenate(logp).astype(float)


def _mean(values, patient, seed):
    """Mean with the interval of a ratio over resampled patients."""
    ids, member = np.unique(patient, return_inverse=True)
    total, count = np.bincount(member, values), np.bincount(member)
    rng = np.random.default_rng(seed)
    draws = [total[i].sum() / count[i].sum() for i in (rng.integers(0, ids.size, ids.size) for _ in range(400))]
    return {"n": int(values.size), "mean": float(values.mean()), "interval": metrics.interval(np.array(draws))}


def summarise(columns, oracle, vocabulary, seed):
    counted = np.isfinite(columns["loss"])
    token = columns["token"][counted].astype(int)
    loss, patient, place = (columns[k][counted] for k in ("loss", "patient_key", "index"))
    kind = np.where(vocabulary.is_event[token], vocabulary.event_kind[token], vocabulary.kind[token])
    out = {"patients": int(np.unique(patient).size), "all": _mean(loss, patient, seed), "by_kind": [], "by_place": []}
    excess = None
    if oracle is not None:
        q = oracle[counted]
        told = np.isfinite(q)
        excess = np.where(told, loss + q, np.nan)
        if told.any():
            out["excess"] = _mean(excess[told], patient[told], seed)

    def entry(i):
        e = _mean(loss[i], patient[i], seed)
        if excess is not None and np.isfinite(excess[i]).any():
            e["excess"] = float(np.nanmean(excess[i]))
        return e

    for k in sorted(set(kind)):
        out["by_kind"].append({"kind": str(k), **entry(kind == k)})
    for low, high in PLACES:
        i = (place >= low) & (place < (high or np.inf))
        if i.any():
            out["by_place"].append({"from": low, "to": high, **entry(i)})
    return out
