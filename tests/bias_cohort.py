"""bias_cohort.py MEDS GROUP - takes from the train and tuning records of one group half of their admissions and deaths.

MEDS is a folder of scripts/events_to_meds.py; its files are changed in place.  GROUP is a static code such as RACE//BLACK.
A lost admission loses every event of its stay.  Held-out records stay as they are.
"""

import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def lose_half(path, group, rng):
    table = pq.read_table(path)
    subject, visit = (table[k].to_numpy(zero_copy_only=False) for k in ("subject_id", "visit"))
    code = np.array(table["code"].to_pylist())
    mine = np.isin(subject, subject[code == group])
    lost = np.zeros(len(code), bool)
    for i in np.flatnonzero(mine & (code == "VISIT//IN")):
        if rng.uniform() < 0.5:
            lost |= (subject == subject[i]) & (visit == visit[i])
    deaths = np.flatnonzero(mine & (code == "MEDS_DEATH") & ~lost)
    lost[deaths[rng.uniform(size=deaths.size) < 0.5]] = True
    pq.write_table(table.filter(pa.array(~lost)), path)
    return int((lost & (code == "VISIT//IN")).sum()), int((mine & (code == "VISIT//IN")).sum()), int((lost & (code == "MEDS_DEATH")).sum())


def main():
    root, group = pathlib.Path(sys.argv[1]), sys.argv[2]
    rng = np.random.default_rng(1)
    for split in ("train", "tuning"):
        files = sorted((root / "data" / split).glob("*.parquet"))
        lost = np.array([lose_half(f, group, rng) for f in files]).sum(axis=0)
        print(f"{split}: lost {lost[0]} of {lost[1]} admissions of {group}, and {lost[2]} deaths")
        if not lost[0]:
            sys.exit(f"{root}: {split} has no admission of {group} to lose")


main()
