"""What the MEDS scripts share: the folders of a MEDS data set and of what ehr.c adds to one, and leaving with a message."""

import pathlib
import sys

# Beside MEDS's own metadata: what an events file holds and MEDS has no place for.
EXTRA = "ehr_c"
SPLITS = ["train", "tuning", "held_out"]
NO_TIME = -(2**63)


def fail(message):
    print(f"{pathlib.Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    sys.exit(1)


try:
    import pyarrow  # noqa: F401
except ImportError:
    fail("pyarrow is missing: run `sh scripts/setup.sh meds`, and this with .venv/bin/python")
