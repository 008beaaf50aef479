"""check_alarms.py DATASET [SEEDS [GROUP]] - how often alarms for groups are raised on risks that are right, and on risks of a
group that are half of what they should be.

DATASET is an oracle cohort with label files.  For every seed and outcome, rows of held-out patients are drawn, half of them
to recalibrate on; outcomes are drawn from the true risks, which are also what is predicted.  All groups, all outcomes and
all tests of a seed are one family, as in a report.  Prints "ok - name" or "not ok - name"; exit 1 when more than 10% of
the families of right risks hold an alarm, or when a halved group is missed more often than found: how often it is found
depends on the size of the cohort.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
import outcome  # noqa: E402
import recalibrate  # noqa: E402
import shards  # noqa: E402

LEAST_ROWS, RESAMPLES = 800, 100


def truths(folder):
    """{outcome: (true risks, {group: labels}, known tokens, keys)} of held-out rows."""
    dataset = json.loads((folder / "dataset.json").read_text())
    out = {}
    for path in sorted((folder / "labels").glob("*.h5")):
        c, about = shards.read_table(path, ["true_risk", "patient_row", "split"], "labels of an oracle cohort", "`ehr-data label`")
        i = np.flatnonzero((c["split"] == 2) & np.isfinite(c["true_risk"]))
        if i.size >= LEAST_ROWS:
            out[path.stem] = (c["true_risk"][i], shards.groups_of(folder, dataset, "held_out", c["patient_row"][i]), c["patient_key"][i],
                              float(about["horizon_minutes"]))  # fmt: skip
    return out


def family(cohort, rng, harmed=None):
    """The alarms of one report."""
    found = []
    for name, (truth, groups, keys, horizon) in cohort.items():
        parts = []
        half = truth.size // 2
        for rows in np.split(rng.permutation(truth.size)[: 2 * half], 2):
            y = (rng.uniform(size=half) < truth[rows]).astype(float)
            risk = np.clip(truth[rows], 1e-4, 1 - 1e-4)
            labels = {g: v[rows] for g, v in groups.items()}
            if harmed:  # what a model learns from records that lost half of it, and tuning rows that lost it as well
                hit = np.logical_or.reduce([v == harmed for v in labels.values()])
                risk = np.where(hit, risk / 2, risk)
                if not parts:
                    y = np.where(hit & (rng.uniform(size=half) < 0.5), 0, y)
            columns = {"risk": risk, "outcome": y, "patient_key": keys[rows], "index_minutes": np.zeros(half)}
            parts.append(outcome.Rows(columns, labels))
        tuning, held_out = parts
        record = recalibrate.fit(tuning.risk, tuning.y, np.ones(half), 10)
        found.append(outcome.evaluate(name, {"horizon_minutes": str(horizon)}, held_out, recalibrate.seal(record), n_bootstrap=RESAMPLES, seed=1))
    return outcome.raise_alarms(found)


def main():
    folder, seeds = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50
    group = sys.argv[3] if len(sys.argv) > 3 else "BLACK"
    cohort = truths(folder)
    if not cohort:
        sys.exit(f"{folder}: no label file has true risks of {LEAST_ROWS} held-out rows: `ehr-data synth`, `tokenize`, `label` make one")
    fair = [family(cohort, np.random.default_rng(1000 + s)) for s in range(seeds)]
    false = sum(bool(a) for a, _ in fair)
    print(f"{'ok' if false <= seeds / 10 else 'not ok'} - right risks: {false} of {seeds} reports raise an alarm, in {np.mean([n for _, n in fair]):.0f} "
          f"tests each of {len(cohort)} outcomes")  # fmt: skip
    harmed = [family(cohort, np.random.default_rng(2000 + s), group)[0] for s in range(seeds)]
    seen = sum(any(a["subgroup"].endswith(f"//{group}") and a["statistic"] == "log_oe" and a["gap"] > 0 for a in h) for h in harmed)
    print(f"{'ok' if 2 * seen > seeds else 'not ok'} - half of the risk of {group} gone: {seen} of {seeds} reports say so")
    sys.exit(false > seeds / 10 or 2 * seen <= seeds)


main()
