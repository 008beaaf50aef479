"""Does a checkpoint give away whom it was trained on?

Members are patients of the train split, others those of the tuning split, of which no weight was trained; both are drawn
from the same source.  Membership: can one tell the two apart by how well the model predicts their records (mean loss;
Min-K%: the mean of the most surprising fifth, Shi 2024; loss less that of a reference checkpoint)?  Copying: do simulated
futures share longer runs of events with train records than with tuning records, or lie nearer to them?"""

import time

import numpy as np

import futures
import metrics
import shards
import suite

SHARE = 0.2  # of the most surprising tokens
FUTURES = 50  # held-out patients whose futures are searched for copies
LEAST = 15  # patients of a split
CUT = 5  # the longest runs are searched among windows of at least this many events


def losses(s, checkpoint, split, limit, name):
    """{patient: losses of its tokens} of the first patients of a split."""
    out = s.work / f"{name}-{split}-tokens.h5"
    key = {
        "model": shards.sha256(checkpoint / "model.safetensors"),
        "dataset": shards.sha256(s.args.data / "dataset.json"),
        "limit": limit,
    }
    if not s._fresh(out, key):
        suite.say(f"losses of the {split} split")
        started = time.time()
        words = [
            suite.program("ehr-infer"),
            "score",
            checkpoint,
            "--data",
            s.args.data,
            "--split",
            split,
            "--limit",
            limit,
        ]
        rc, end = suite.command([*words, "--events", 0, "--tokens", out], out.with_suffix(".log"))
        s.timed("token losses", started)
        if rc:
            raise shards.BadFile(f"ehr-infer score failed:\n{end}")
    columns, _ = shards.read_table(
        out, ["patient_key", "token", "loss"], "a table of tokens", "`ehr-infer score --tokens`"
    )
    good = np.isfinite(columns["loss"])
    key, loss = columns["patient_key"][good], columns["loss"][good]
    cuts = np.flatnonzero(np.diff(key.astype(np.int64)) != 0) + 1
    return {int(k[0]): x for k, x in zip(np.split(key, cuts), np.split(loss, cuts), strict=True) if k.size}


def scores(of, reference):
    """Attacks: {name: score of each patient}, higher = more like a member."""
    out = {"loss": np.array([-x.mean() for x in of.values()])}
    tail = [np.sort(x)[-max(1, int(np.ceil(SHARE * x.size))) :].mean() for x in of.values()]
    out["min-k"] = -np.array(tail)
    if reference:
        out["loss against the reference"] = np.array([reference[k].mean() - x.mean() for k, x in of.items()])
    return out


def tpr_at(member, other, fpr):
    """Share of members found when at most `fpr` of the others are taken for one."""
    threshold = np.sort(other)[::-1][min(int(np.floor(fpr * other.size)), other.size - 1)]
    return float((member > threshold).mean())


def membership(members, others, n_bootstrap, seed):
    out = []
    for name, m in members.items():
        o = others[name]
        score, y = np.r_[m, o], np.r_[np.ones(m.size), np.zeros(o.size)]
        rank = np.argsort(np.argsort(score, kind="stable"), kind="stable") / score.size if np.ptp(score) else score
        values = metrics.draw(
            lambda W, r=score, y=y: {"auc": metrics.weighted_auroc(r, y, W)}, np.arange(rank.size), n_bootstrap, seed
        )
        box = metrics.interval(values["auc"])
        out.append({"attack": name, "auc": metrics.auroc(score, y), "interval": box, "members": int(m.size), "others": int(o.size),
                    "tpr_at_1_percent": tpr_at(m, o, 0.01),
                    "tpr_at_0.1_percent": tpr_at(m, o, 0.001) if o.size >= 1000 else None,
                    "alarm": bool(box and box[0] > 0.5)})  # fmt: skip
    return out


def runs_of(timelines, n):
    """All windows of n events."""
    return {tuple(t[i : i + n]) for t in timelines for i in range(len(t) - n + 1)}


def longest_shared(generated, pool):
    """For each generated sequence the length of its longest run of events that occurs in the pool (0 below CUT)."""
    found = np.zeros(len(generated), int)
    n, going = CUT, list(range(len(generated)))
    while going:
        known = runs_of(pool, n)
        going = [
            g for g in going if any(tuple(generated[g][i : i + n]) in known for i in range(len(generated[g]) - n + 1))
        ]
        found[going] = n
        n += 1
    return found


def nearest(generated, pool):
    """For each generated sequence the smallest Jaccard distance to the sets of codes of the pool's."""
    codes = {c: i for i, c in enumerate(sorted({c for t in [*generated, *pool] for c in t}))}

    def matrix(side):
        m = np.zeros((len(side), len(codes)), np.float32)
        for r, t in enumerate(side):
            m[r, [codes[c] for c in t]] = 1
        return m

    a, b = matrix(generated), matrix(pool)
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - shared
    return (1 - shared / np.maximum(union, 1)).min(axis=1)


def copying(generated, train, tuning, seed):
    """Pools are of one size, so that a longer run or a nearer record is none of chance."""
    rng = np.random.default_rng(seed)
    out = {"futures": len(generated), "pool": len(train)}
    for name, measure, sign in [("longest_shared_run", longest_shared, 1), ("nearest_distance", nearest, -1)]:
        a, b = measure(generated, train).astype(float), measure(generated, tuning).astype(float)
        gap = sign * (a - b)
        means = [gap[rng.integers(0, gap.size, gap.size)].mean() for _ in range(500)]
        box = metrics.interval(np.array(means))
        out[name] = {"train": float(a.mean()), "tuning": float(b.mean()), "most_train": float(a.max() if sign > 0 else a.min()),
                     "most_tuning": float(b.max() if sign > 0 else b.min()), "towards_train": float(gap.mean()),
                     "interval": box, "alarm": bool(box[0] > 0)}  # fmt: skip
    return out


def codes_of(s, split, n):
    v = shards.Vocabulary(s.args.data, s.dataset)
    part = shards.Split(s.args.data, s.dataset, split)
    rows = np.arange(min(n, int(part.first[-1])))
    return [[v.code[k] for k in tokens if v.is_event[k]] for _, tokens, _, _ in part.timelines(rows)]


def measure(s, label_files, patients):
    """patients: of each split, 0 = all."""
    trainer = s.args.checkpoint / "trainer.json"
    trained = shards.read_json(trainer, "a trainer record").get("provenance", {}) if trainer.exists() else {}
    if trained.get("dataset_sha256", "") not in ("", shards.sha256(s.args.data / "dataset.json")):
        raise shards.BadFile(
            f"{s.args.data} is not the dataset that {s.args.checkpoint} was trained on: its train split has no members"
        )
    size = {k: s.dataset["splits"].get(k, {}).get("patients", 0) for k in ("train", "tuning")}
    limit = {k: min(patients or n, n) for k, n in size.items()}
    if min(limit.values()) < LEAST:
        raise shards.BadFile(
            f"{s.args.data}: {min(limit.values())} patients of a split are too few to tell members from others"
        )
    attacks = []
    for split in ("train", "tuning"):
        of = losses(s, s.args.checkpoint, split, limit[split], "members")
        reference = losses(s, s.args.reference, split, limit[split], "reference") if s.args.reference else None
        attacks.append(scores(of, reference))
    out = {"membership": membership(*attacks, s.args.bootstrap, s.args.seed)}
    pool = min(limit.values())
    picked = futures.pick(s, label_files, min(FUTURES, pool))
    if picked:
        made = futures.generate(s, picked, 2)
        generated = [[c for _, _, c in f] for m in made for f in m["futures"] if f]
        out["copying"] = copying(generated, codes_of(s, "train", pool), codes_of(s, "tuning", pool), s.args.seed)
    else:
        s.notes.append("copying was not measured: no label file has a held-out patient with a year recorded whole")
    return out
