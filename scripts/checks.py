"""What check_*.py and the clients in tests/ share: a line a check, "ok - name" or "not ok - name", and the exit code."""

import sys

failed = False


def check(name, good, detail=""):
    global failed
    print(f"{'ok' if good else 'not ok'} - {name}" + ("" if good else f"\n    {str(detail)[:1500]}"))
    failed |= not good


def close(a, b, limit=1e-9):
    return a is not None and abs(a - b) <= limit


def finish():
    """Ends the script: exit code 1 when a check failed."""
    sys.exit(failed)
