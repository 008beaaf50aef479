"""Sequential diagnosis: accuracy against what was asked for, its price and its waiting time.

`ehr-infer diagnose` walks encounters of held-out patients test by test and writes, at every step, what the model would
name and how sure it is.  A policy is a place to stop on each walk: at once (never ask), when sure enough (a curve, one
point a threshold), when naming is likelier to be right than the next test is to be recorded (the model's own choice), or
at the end (ask everything).  On an oracle cohort the generator walks, too: nobody can name better on what was revealed.
"""

import time

import numpy as np

import metrics
import shards
import suite

STEP_COLUMNS = ["patient_key", "step", "cost", "minutes", "asked", "recorded", "named", "confidence", "right", "next_p", "fit",
                "n_new", "n_recorded", "recorded_cost", "recorded_minutes", "common_right"]  # fmt: skip
TEST_COLUMNS = ["token", "recorded", "recorded_new", "price", "minutes", "usual"]
THRESHOLDS = 24
ALL = 10**9  # encounters
PRICES = suite.HERE / "tasks" / "test_prices.json"


class Walks:
    """Columns of a table of walks as arrays (encounters, steps)."""

    def __init__(self, path):
        columns, self.about = shards.read_table(path, STEP_COLUMNS, "walks of sequential diagnosis", "`ehr-infer diagnose`")
        step = columns["step"]
        n = int((step == 0).sum())
        if not n or step.size % n or (np.diff(step.reshape(n, -1), axis=1) <= 0).any():
            raise shards.BadFile(f"{path}: not walks of sequential diagnosis: every encounter has the same number of steps, in order")
        self.n = n
        self.column = {k: v.reshape(n, -1) for k, v in columns.items()}
        self.steps = step.size // n
        # Where the tests are too many to ask one by one, the last row asks for all that are left at once.
        self.last_single = self.steps - 1 - int((self.column["asked"][:, -1] == -2).any())

    def __getattr__(self, name):
        try:
            return self.__dict__["column"][name]
        except KeyError:
            raise AttributeError(name) from None

    def at(self, name, stop):
        return self.column[name][np.arange(self.n), stop].astype(float)

    def stop_when(self, sure):
        """First step at which sure (encounters, steps) holds; else the last test that is asked for alone."""
        sure = sure[:, : self.last_single + 1]
        return np.where(sure.any(axis=1), sure.argmax(axis=1), self.last_single)


def walks(s, name, flags, tests=None):
    """One run of ehr-infer diagnose; its table of tests is written beside when asked for."""
    a, out = s.args, s.work / f"diagnose-{name}.h5"
    words = ["--data", a.data, "--split", "held_out", "--prices", PRICES, "--limit", a.limit or ALL, "--seed", a.seed, *flags]
    key = {"model": s.model, "dataset": shards.sha256(a.data / "dataset.json"), "prices": shards.sha256(PRICES),
           "flags": [str(w) for w in words[6:]]}  # fmt: skip
    if not s._fresh(out, key) or (tests and not tests.exists()):
        suite.say(f"sequential diagnosis: {name}")
        started = time.time()
        checkpoint = [] if "generator" in flags else [a.checkpoint]
        rc, end = suite.command([suite.program("ehr-infer"), "diagnose", *checkpoint, *words, "--out", out,
                                 *(["--tests", tests] if tests else [])], out.with_suffix(".log"))  # fmt: skip
        s.timed(f"walks by {name}", started)
        if rc:
            raise shards.BadFile(f"ehr-infer diagnose failed ({name}):\n{end}")
    return Walks(out)


def mean(values, draws):
    """Mean over encounters, one a patient, with its interval: over resampled patients, but of what is or is not Wilson's, which
    of none, or all, is not nothing."""
    shares = np.isin(values, (0, 1)).all()
    box = [float(np.clip(x, 0, 1)) for x in metrics.wilson(values.sum(), values.size)] if shares else metrics.interval(values[draws].mean(axis=1))
    return {"mean": float(values.mean()), "interval": box}


def gain(values, draws):
    """Mean of differences, with its interval over resampled patients."""
    return {"mean": float(values.mean()), "interval": metrics.interval(values[draws].mean(axis=1))}


def policy(w, stop, draws, cost=None, minutes=None):
    """What a policy comes to that stops at step stop (encounters)."""
    right = w.at("right", stop)
    out = {
        "right": mean(right, draws),
        "cost": float((w.at("cost", stop) if cost is None else cost).mean()),
        "minutes": float((w.at("minutes", stop) if minutes is None else minutes).mean()),
        "tests": float(w.at("step", stop).mean()),
        "confidence": float(w.at("confidence", stop).mean()),
    }
    if "truth_named" in w.column:
        out["truly_right"] = mean(w.at("truth_named", stop), draws)
        out["best"] = mean(w.at("truth_best", stop), draws)
    return out


def curve(w, draws):
    """A point a threshold of confidence: from never asking to asking on and on."""
    levels = np.unique(np.quantile(w.confidence[:, : w.last_single + 1], np.linspace(0, 1, THRESHOLDS)))
    return [{"threshold": float(t), **policy(w, w.stop_when(w.confidence >= t), draws)} for t in [*levels, np.inf]]


def everything(w, draws, waits):
    last = np.full(w.n, w.steps - 1)
    return policy(w, last, draws, minutes=np.full(w.n, waits))


def tests_table(path, vocabulary, walk, own):
    """How being recorded goes with what is found, test by test; what the model asked for until it stopped."""
    t, about = shards.read_table(path, TEST_COLUMNS, "a table of tests", "`ehr-infer diagnose --tests`")
    n, new = float(about["encounters"]), float(about["with_new"])
    taken = walk.column["step"] <= walk.at("step", own)[:, None]
    rows = []
    for i in np.argsort(-t["recorded"], kind="stable"):
        had, with_new = float(t["recorded"][i]), float(t["recorded_new"][i])
        asked = taken & (walk.asked == t["token"][i])
        rows.append({
            "code": vocabulary.base[int(t["token"][i])], "name": vocabulary.name[int(t["token"][i])], "price": float(t["price"][i]),
            "minutes": float(t["minutes"][i]), "recorded": had / n,
            "new_when_recorded": with_new / had if had else None, "new_when_not": (new - with_new) / (n - had) if n > had else None,
            "asked": float(asked.sum() / walk.n), "asked_and_recorded": float((asked & (walk.recorded > 0)).sum() / max(asked.sum(), 1)),
        })  # fmt: skip
    return rows, {k: float(about[k]) for k in ("visits", "encounters", "with_new")}, float(t["minutes"].max())


def measure(s):
    a = s.args
    tests = s.work / "diagnose-tests.h5"
    flags = ["--samples", a.samples, "--ask"]
    model = walks(s, "model", [*flags, "likely"], tests)
    usual = walks(s, "usual order", [*flags, "usual"])
    ceiling = walks(s, "generator", [*flags, "likely", "--by", "generator"]) if s.dataset.get("floor_valid") else None
    draws = np.random.default_rng(a.seed).integers(0, model.n, (a.bootstrap, model.n))
    started = time.time()
    own = model.stop_when(model.confidence >= np.nan_to_num(model.next_p, nan=0.0))
    never = np.zeros(model.n, int)
    rows, counts, waits = tests_table(tests, shards.Vocabulary(a.data, s.dataset), model, own)
    last = np.full(model.n, model.steps - 1)
    one_by_one = (model.asked >= 0) & (model.step <= model.at("step", own)[:, None])
    out = {
        "currency": model.about["currency"],
        "encounters": model.n,
        "patients_looked_at": int(float(model.about["patients_looked_at"])),
        "counts": counts,
        "unfit": int(float(model.about["unfit"])),
        "prices_sha256": shards.sha256(PRICES),
        "new_diagnoses": float(model.n_new[:, 0].mean()),
        "recorded_tests": float(model.n_recorded[:, 0].mean()),
        "most_common_named": mean(model.common_right[:, 0].astype(float), draws),
        "never": policy(model, never, draws),
        "own": policy(model, own, draws),
        "everything": everything(model, draws, waits),
        "as_recorded": policy(model, last, draws, model.recorded_cost[:, 0], model.recorded_minutes[:, 0]),
        "gain_of_everything": gain(model.at("right", last) - model.at("right", never), draws),
        "curve": curve(model, draws),
        "usual_order": {"curve": curve(usual, draws)},
        "asked_in_vain": float((one_by_one & (model.recorded == 0)).sum() / max(one_by_one.sum(), 1)),
        "tests": rows,
    }  # fmt: skip
    if ceiling:
        at = np.random.default_rng(a.seed).integers(0, ceiling.n, (a.bootstrap, ceiling.n))
        out["ceiling"] = {"encounters": ceiling.n, "never": policy(ceiling, np.zeros(ceiling.n, int), at),
                          "everything": everything(ceiling, at, waits), "curve": curve(ceiling, at)}  # fmt: skip
    s.timed("figures", started)
    return out
