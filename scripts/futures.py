"""Are simulated futures like recorded ones?  One future a patient is compared with the same patient's recorded one.

Under a model that is right the two are exchangeable given the history, so that swapping them within patients at random
gives the distribution of every distance between the two sets: the tests are exact whatever the figure."""

import json
import time

import numpy as np

import shards
import suite

HORIZON_DAYS = 365
SWAPS = 200


def pick(s, label_files, n):
    """[(patient row, index in days)] of held-out patients whose year after the index is recorded whole, or ends in death."""
    for path in label_files:
        labels, attributes = suite.read_labels(path)
        if json.loads(attributes.get("task", "{}")).get("until"):
            continue
        year = HORIZON_DAYS * 1440
        whole = (labels["censor_minutes"] >= year) | (labels["death_minutes"] <= year)
        rows = np.flatnonzero((labels["split"] == 2) & whole)
        _, first = np.unique(labels["patient_key"][rows], return_index=True)
        rows = rows[np.sort(first)][:n]
        if rows.size:
            return [(int(labels["patient_row"][i]), (labels["index_minutes"][i] + 0.5) / 1440) for i in rows]
    return []


def generate(s, picked, samples):
    """JSON records of each patient: history, recorded and `samples` futures, by `ehr-infer generate`."""
    started = time.time()
    out = []
    folder = s.work / "futures"
    folder.mkdir(exist_ok=True)
    dataset = shards.sha256(s.args.data / "dataset.json")
    suite.say(f"futures of {len(picked)} patients")
    for patient, days in picked:
        path = folder / f"{patient}.jsonl"
        flags = [
            "--patient",
            patient,
            "--at",
            f"{days:.7f}d",
            "--samples",
            samples,
            "--horizon",
            f"{HORIZON_DAYS}d",
            "--seed",
            s.args.seed,
        ]
        if not s._fresh(path, {"model": s.model, "dataset": dataset, "flags": [str(f) for f in flags]}):
            words = [suite.program("ehr-infer"), "generate", s.args.checkpoint, "--data", s.args.data, *flags]
            rc, end = suite.command([*words, "--history", 0, "--json", "--out", path], path.with_suffix(".log"))
            if rc:
                raise shards.BadFile(f"ehr-infer generate failed for patient {patient}:\n{end}")
        records = [json.loads(line) for line in path.read_text().splitlines()]
        one = {"history": [], "recorded": [], "futures": []}
        for r in records:
            events = [(e["days"], e["kind"], e["code"]) for e in r["events"]]
            if r["kind"] == "future":
                one["futures"].append(events)
            elif r["kind"] in ("history", "recorded"):
                one[r["kind"]] = [e for e in events if r["kind"] == "history" or e[0] <= HORIZON_DAYS]
        out.append(one)
    s.timed("futures", started)
    return out


def _frequencies(futures, code):
    """Counts of codes and of pairs of codes of one patient, each future a row."""
    single = np.zeros((len(futures), len(code)))
    for i, events in enumerate(futures):
        for _, _, c in events:
            single[i, code[c]] += 1
    return single


def gaps_of(events):
    """Days between moments, from the index on: told to 9 seconds; what is half an hour or less is no gap."""
    moments = sorted({0.0} | {round(d, 4) for d, _, _ in events})
    return [b - a for a, b in zip(moments, moments[1:], strict=False) if b - a > 0.02]


def total_variation(a, b):
    return 0.5 * float(np.abs(a / max(a.sum(), 1) - b / max(b.sum(), 1)).sum())


def kolmogorov(a, b):
    """Largest distance of the two distributions; 0 when one is empty."""
    if not a.size or not b.size:
        return 0.0
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), at, side="right") / x.size for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


class Pairs:
    """Everything that the distances need of each patient's two futures, [recorded, simulated]."""

    def __init__(self, recorded, simulated):
        both = [recorded, simulated]
        names = sorted({c for side in both for events in side for _, _, c in events})
        code = {c: i for i, c in enumerate(names)}
        self.names = names
        self.count = np.stack([_frequencies(side, code) for side in both])  # (2, n, codes)
        self.length = self.count.sum(2)
        self.gaps = [[np.array(gaps_of(events)) for events in side] for side in both]
        common = np.argsort(-(self.count > 0).sum((0, 1)), kind="stable")[:60]
        have = (self.count[:, :, common] > 0).astype(np.float32)
        upper = np.triu_indices(common.size, 1)
        self.pairs = (have[..., :, None] * have[..., None, :])[..., upper[0], upper[1]]  # (2, n, pairs)

    def distances(self, swap):
        """swap (n) of 0 and 1: whose two futures change sides."""
        n = np.arange(swap.size)
        a, b = (swap, n), (1 - swap, n)
        gaps = [
            np.concatenate([self.gaps[k][i] for i, k in enumerate(side)] or [np.zeros(0)]) for side in (swap, 1 - swap)
        ]
        return {
            "codes": total_variation(self.count[a].sum(0), self.count[b].sum(0)),
            "codes together": total_variation(self.pairs[a].sum(0), self.pairs[b].sum(0)),
            "events a year": float(abs(self.length[a].mean() - self.length[b].mean())),
            "spread of events a year": kolmogorov(self.length[a], self.length[b]),
            "gaps": kolmogorov(*gaps),
        }


def realism(recorded, simulated, seed, swaps=SWAPS):
    pairs = Pairs(recorded, simulated)
    n = len(recorded)
    real = pairs.distances(np.zeros(n, int))
    rng = np.random.default_rng(seed)
    chance = [pairs.distances(rng.integers(0, 2, n)) for _ in range(swaps)]
    tests = []
    for k, v in real.items():
        drawn = np.array([c[k] for c in chance])
        tests.append({"distance": k, "value": v, "by_chance": float(drawn.mean()),
                      "p": float((1 + (drawn >= v - 1e-12).sum()) / (1 + swaps))})  # fmt: skip
    share = pairs.count.sum(1) / np.maximum(pairs.count.sum((1, 2)), 1)[:, None]
    order = np.argsort(-np.abs(share[1] - share[0]), kind="stable")[:8]
    return {
        "patients": n,
        "events_recorded": float(pairs.length[0].mean()),
        "events_simulated": float(pairs.length[1].mean()),
        "tests": tests,
        "most_unlike": [
            {"code": pairs.names[i], "share_recorded": float(share[0, i]), "share_simulated": float(share[1, i])} for i in order
        ],
    }  # fmt: skip


def measure(s, label_files, patients):
    picked = pick(s, label_files, patients)
    if len(picked) < 10:
        s.notes.append(
            "simulated futures were not compared with recorded ones: fewer than 10 held-out patients have a year recorded whole"
        )
        return None
    made = generate(s, picked, 1)
    return realism([m["recorded"] for m in made], [m["futures"][0] for m in made], s.args.seed)
