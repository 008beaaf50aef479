"""check_alarms.py DATASET [SEEDS [GROUP]] - how often alarms for groups are raised on risks that are right, and on risks of a
group whose records lost half of its outcomes.

DATASET is an oracle cohort with label files.  Every seed draws outcomes of held-out rows from their true risks, and as many
tuning rows to recalibrate on; what is predicted is the true risk, or for the group and the outcomes that were lost what a
model learns from records that lost every second one: half of the hazard.  All groups, all outcomes and all tests of a seed
are one family, as in a report of risks alone; what is recorded over whole records (scripts/recorded.py) sees more and is
not drawn here.  Prints "ok - name" or "not ok - name"; exit 1 when more than 10% of the families of right risks hold an
alarm, or when too few of the others hold one for the group.

How many that must be is a calculation.  The cohort of the quickstart has 3,513 rows, 625 of the group, 96 of them admitted;
halved risks stand 5 standard errors from those beyond the twentieth that is tolerated, and the first alarm of 69 tests needs
3.4: power 94%, and above 99% in a cohort half as large again.  Seen there (Zen 5, 2026-11-30, 400 seeds, five minutes of a
core): alarms in 11 reports of right risks, in 383 of those that lost outcomes, and in 399 with half as many rows again.
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
BOUNDS = [(1.0, 0.85), (1.5, 0.95)]  # rows, in those of the cohort; share that must be found
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


def family(cohort, rng, harmed=None, times=1.0):
    """The alarms of one report."""
    found = []
    for name, (truth, groups, keys, horizon) in cohort.items():
        hit = np.logical_or.reduce([v == harmed for v in groups.values()]) & (name in LOST)
        learnt = np.where(hit, 1 - np.sqrt(1 - truth), truth)
        parts = []
        n = int(times * truth.size)
        whole = np.arange(n) if n == truth.size else rng.integers(0, truth.size, n)
        for rows, chance in [(rng.integers(0, truth.size, n), learnt), (whole, truth)]:
            y = (rng.uniform(size=n) < chance[rows]).astype(float)
            columns = {"risk": np.clip(learnt[rows], 1e-4, 1 - 1e-4), "outcome": y, "patient_key": keys[rows] if n == truth.size else np.arange(n),
                       "index_minutes": np.zeros(n)}  # fmt: skip
            parts.append(outcome.Rows(columns, {g: v[rows] for g, v in groups.items()}))
        tuning, held_out = parts
        record = recalibrate.seal(recalibrate.fit(tuning.risk, tuning.y, np.ones(n), 10))
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
    good = false <= seeds / 10
    for times, least in BOUNDS:
        harmed = [family(cohort, np.random.default_rng(2000 + s), group, times)[0] for s in range(seeds)]
        seen = sum(any(a["subgroup"].endswith(f"//{group}") and a["statistic"] == "log_oe" and a["gap"] > 0 for a in h) for h in harmed)
        good &= seen >= least * seeds
        print(f"{'ok' if seen >= least * seeds else 'not ok'} - half of the hazard of {group} gone, {times:g} times the rows: {seen} of {seeds} "
              f"reports say so, {100 * least:.0f}% must")  # fmt: skip
    sys.exit(not good)


main()
