"""check_alarms.py DATASET [SEEDS [GROUP]] - how often alarms for groups are raised on risks that are right, and on risks of a
group whose records lost half of its outcomes.

DATASET is an oracle cohort with label files.  Every seed draws outcomes of all held-out rows from their true risks, and as
many tuning rows to recalibrate on; what is predicted is the true risk, or for the group what a model learns from records
that lost every second admission: half of the hazard.  All groups, all outcomes and all tests of a seed are one family, as
in a report.  Prints "ok - name" or "not ok - name"; exit 1 when more than 10% of the families of right risks hold an alarm,
or fewer than 90% of the others hold one for the group.  The cohort of the quickstart (3,513 rows, 625 of the group, 96 of
them admitted) promises that: the expected z is 4.6, an alarm needs 3.6.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
import fairness  # noqa: E402
import outcome  # noqa: E402
import recalibrate  # noqa: E402
import shards  # noqa: E402

LOST = {"admission_1y", "death_1y"}  # a diagnosis is written down at other visits as well
LEAST_ROWS, RESAMPLES = 800, 2  # no alarm rests on a resample


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
        hit = np.logical_or.reduce([v == harmed for v in groups.values()]) & (name in LOST)
        learnt = np.where(hit, 1 - np.sqrt(1 - truth), truth)
        parts = []
        for rows, chance in [(rng.integers(0, truth.size, truth.size), learnt), (np.arange(truth.size), truth)]:
            y = (rng.uniform(size=truth.size) < chance[rows]).astype(float)
            columns = {"risk": np.clip(learnt[rows], 1e-4, 1 - 1e-4), "outcome": y, "patient_key": keys[rows],
                       "index_minutes": np.zeros(truth.size)}  # fmt: skip
            parts.append(outcome.Rows(columns, {g: v[rows] for g, v in groups.items()}))
        tuning, held_out = parts
        record = recalibrate.seal(recalibrate.fit(tuning.risk, tuning.y, np.ones(truth.size), 10))
        found.append(outcome.evaluate(name, {"horizon_minutes": str(horizon)}, held_out, record, n_bootstrap=RESAMPLES, seed=1))
    return fairness.raise_alarms(found)


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
    print(f"{'ok' if seen >= 0.9 * seeds else 'not ok'} - half of the hazard of {group} gone: {seen} of {seeds} reports say so")
    sys.exit(false > seeds / 10 or seen < 0.9 * seeds)


main()
