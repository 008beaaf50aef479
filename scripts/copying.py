"""Do generated records repeat records that the model was trained on?

What they share with train records is set beside what they share with as many records that no weight saw.  Did the model
not depend on whose records were trained on, the two pools could be dealt again at random: that gives the distribution of
the difference, so that the tests are exact whatever the figure (permutation tests, one-sided)."""

import numpy as np

DEALS = 2000
KEPT = 40  # of a generated record's nearest in both pools: that all of them are dealt to one pool has a chance of 2^-40


def numbered(*sides):
    """The sequences of codes of all sides as arrays of whole numbers, one numbering for all."""
    number = {}
    return [[np.array([number.setdefault(c, len(number)) for c in t], np.int64) for t in side] for side in sides]


def longest_shared(generated, pool):
    """(generated, pool): length of the longest run of events that two sequences share."""
    lengths = np.array([t.size for t in pool])
    begin = np.cumsum(np.r_[0, lengths + 1])[:-1] + 1  # a place of nothing before each
    text = np.full(int(begin[-1] + lengths[-1]) + 1 if lengths.size else 1, -1, np.int64)
    for b, t in zip(begin, pool, strict=True):
        text[b : b + t.size] = t
    order = np.argsort(text, kind="stable")
    ends = np.searchsorted(text[order], np.arange(text.max(initial=-1) + 2))
    out = np.zeros((len(generated), len(pool)), np.int32)
    run, best = np.zeros(text.size, np.int32), np.zeros(text.size, np.int32)
    for g, t in enumerate(generated):
        before = np.zeros(0, np.int64)
        best[:] = 0
        for c in t:
            # Runs that end at each place of this code are one longer than those that ended just before it.
            at = order[ends[c] : ends[c + 1]] if c + 1 < ends.size else np.zeros(0, np.int64)
            length = run[at - 1] + 1
            run[before] = 0
            run[at] = length
            best[at] = np.maximum(best[at], length)
            before = at
        run[before] = 0
        if lengths.size:
            out[g] = np.maximum.reduceat(best, begin)
    return out


def distances(generated, pool):
    """(generated, pool): Jaccard distance of two records' sets of codes."""
    n = 1 + max((int(t.max()) for t in [*generated, *pool] if t.size), default=0)

    def sets(side):
        m = np.zeros((len(side), n), np.float32)
        for r, t in enumerate(side):
            m[r, t] = 1
        return m

    a, b = sets(generated), sets(pool)
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - shared
    return 1 - shared / np.maximum(union, 1)


def closest(closeness, n_train):
    """Mean over generated records of the closest of the first n_train of the pool, and of the others."""
    return float(closeness[:, :n_train].max(1).mean()), float(closeness[:, n_train:].max(1).mean())


def deal(closeness, n_train, seed, deals=DEALS):
    """The difference of the two means when the records of the pools are dealt again; (deals)."""
    rng = np.random.default_rng(seed)
    kept = min(KEPT, closeness.shape[1])
    order = np.argsort(-closeness, axis=1, kind="stable")[:, :kept]
    value = np.take_along_axis(closeness, order, 1).astype(float)
    out = np.zeros(deals)
    for k in range(deals):
        train = np.zeros(closeness.shape[1], bool)
        train[rng.permutation(train.size)[:n_train]] = True
        side = train[order]
        first, second = side.argmax(1), (~side).argmax(1)
        rows = np.arange(len(value))
        out[k] = (value[rows, first] - value[rows, second]).mean()
    return out


def compare(closeness, n_train, seed, sign=1):
    """sign -1: closeness is a distance with its sign turned."""
    train, others = closest(closeness, n_train)
    dealt = deal(closeness, n_train, seed)
    p = float((1 + (dealt >= train - others - 1e-12).sum()) / (1 + dealt.size))
    return {"train": sign * train, "others": sign * others,
            "extreme_train": float(sign * closeness[:, :n_train].max()),
            "extreme_others": float(sign * closeness[:, n_train:].max()),
            "towards_train": train - others, "by_chance": [float(q) for q in np.percentile(dealt, [2.5, 97.5])], "p": p}  # fmt: skip


def beyond(simulated, recorded, train, others, seed):
    """Are simulated years nearer to train records than the recorded years of the same people are, by more than they are to the
    others?  A model that writes years of another length is nearer to both, and has copied nobody."""
    pool = [*train, *others]
    a, b = (distances(side, pool) for side in (simulated, recorded))
    n = len(train)
    towards, towards_others = ((b[:, side].min(1) - a[:, side].min(1)).mean() for side in (slice(0, n), slice(n, None)))
    gap = float(towards - towards_others)
    dealt = deal(-a, n, seed) - deal(-b, n, seed)  # the same deals
    return {"people": len(simulated), "simulated": float(a[:, :n].min(1).mean()), "recorded": float(b[:, :n].min(1).mean()),
            "simulated_others": float(a[:, n:].min(1).mean()), "recorded_others": float(b[:, n:].min(1).mean()), "towards_train": gap,
            "by_chance": [float(q) for q in np.percentile(dealt, [2.5, 97.5])],
            "copies": int((a[:, :n].min(1) == 0).sum()), "copies_others": int((a[:, n:].min(1) == 0).sum()),
            "copies_recorded": int((b[:, :n].min(1) == 0).sum()), "p": float((1 + (dealt >= gap - 1e-12).sum()) / (1 + dealt.size))}  # fmt: skip


def measure(generated, train, others, simulated, recorded, seed):
    """generated: sequences of codes; simulated, recorded: one year of each person; pools of one size."""
    generated, train, others, simulated, recorded = numbered(generated, train, others, simulated, recorded)
    pool = [*train, *others]
    out = {"generated": len(generated), "pool": len(train)}
    out["longest_shared_run"] = compare(longest_shared(generated, pool), len(train), seed)
    out["nearest_distance"] = compare(-distances(generated, pool), len(train), seed, -1)
    both = [i for i, (a, b) in enumerate(zip(simulated, recorded, strict=True)) if a.size and b.size]
    if both:
        out["against_recorded"] = beyond([simulated[i] for i in both], [recorded[i] for i in both], train, others, seed)
    return out
