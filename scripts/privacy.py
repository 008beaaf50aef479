"""Does a checkpoint give away whom it was trained on?

Members are patients of the train split, others those of the tuning split, of which no weight was trained; both are drawn
from the same source.  Membership: can one tell the two apart by how well the model predicts their records (mean loss;
Min-K%: the mean of the most surprising fifth, Shi 2024; loss less that of a reference checkpoint, or on an oracle cohort
less that of the law that drew the records)?  Exposure: are made-up records that were put into the train split likelier
than made-up records that were not (canaries.py)?  Copying: do generated records repeat train records (copying.py)?
Attributes: can the model name what was withheld of a member's record (attributes.py)?  Identifiers: does `ehr-data
phi-scan` find any in what is generated?

Alarms are of all tests together: at most 5% of them are expected to be false (Benjamini and Hochberg)."""

import json
import time

import numpy as np

import attributes
import canaries
import copying
import futures
import metrics
import shards
import suite

SHARE = 0.2  # of the most surprising tokens
LEAST = 15  # patients of a split
GENERATED = 1000  # futures, of
PEOPLE = 100  # held-out patients where there are so many
CANARY_KEY = 1 << 62  # as data/canaries.h
IDENTIFIERS = "identifiers in what is generated"  # among the alarms, but of no test


# ---- what the model makes of recorded tokens ------------------------------------------------------------------------


def tokens_of(s, checkpoint, data, split, limit, name, codes=()):
    """Columns of `ehr-infer score --detail`, canaries left out."""
    out = s.work / f"{name}-{split}-tokens.h5"
    key = {
        "model": shards.sha256(checkpoint / "model.safetensors"),
        "dataset": shards.sha256(data / "dataset.json"),
        "limit": limit,
        "codes": list(codes),
    }
    if not s._fresh(out, key):
        suite.say(f"losses of {name}, {split} split")
        started = time.time()
        words = [suite.program("ehr-infer"), "score", checkpoint, "--data", data, "--split", split, "--limit", limit]
        words += [w for c in codes for w in ("--codes", c)] + ["--events", 0, "--detail", out]
        rc, end = suite.command(words, out.with_suffix(".log"))
        s.timed("token losses", started)
        if rc:
            raise shards.BadFile(f"ehr-infer score failed:\n{end}")
    columns, _ = shards.read_table(
        out, ["patient_key", "index", "token", "loss", "rank_new", "p_new", "p_asked_new"], "a table of targets", "`ehr-infer score --detail`"
    )  # fmt: skip
    mine = columns["patient_key"] < CANARY_KEY
    return {k: v[mine] for k, v in columns.items()}


def losses(columns):
    """{patient: losses of the recorded tokens}, in the order of the split."""
    told = columns["index"] >= 0
    key, loss = columns["patient_key"][told], columns["loss"][told]
    cuts = np.flatnonzero(key[1:] != key[:-1]) + 1
    return {int(k[0]): x for k, x in zip(np.split(key, cuts), np.split(loss, cuts), strict=True) if k.size}


def of_law(s, split, columns):
    """{patient: mean log p of the recorded tokens under the law that drew them}; None where there is none."""
    if not s.dataset.get("floor_valid"):
        return None
    part = shards.Split(s.args.data, s.dataset, split)
    keys = part.column("patient_key")
    wanted = set(np.unique(columns["patient_key"]).tolist())
    rows = [i for i, k in enumerate(keys.tolist()) if k in wanted]
    out = {}
    for i, _, _, _, logp in part.timelines(rows, ["oracle_logp"]):
        good = np.isfinite(logp)
        if good.any():
            out[int(keys[rows[i]])] = good, float(logp[good].mean())
    return out


# ---- membership -------------------------------------------------------------------------------------------------------


def scores(of, reference=None, law=None):
    """Attacks: {name: score of each patient}, higher = more like a member."""
    out = {"loss": np.array([-x.mean() for x in of.values()])}
    tail = [np.sort(x)[-max(1, int(np.ceil(SHARE * x.size))) :].mean() for x in of.values()]
    out["min-k"] = -np.array(tail)
    if reference:
        out["loss against the reference"] = np.array([reference[k].mean() - x.mean() for k, x in of.items()])
    if law:
        told = {k: law[k] for k, x in of.items() if k in law and law[k][0].size == x.size}
        out["loss against the law"] = np.array([-p - of[k][good].mean() for k, (good, p) in told.items()])
    return out


def tpr_at(member, other, fpr):
    """Share of members found when at most `fpr` of the others are taken for one."""
    threshold = np.sort(other)[::-1][min(int(np.floor(fpr * other.size)), other.size - 1)]
    return float((member > threshold).mean())


def tpr_interval(member, other, fpr, n_bootstrap, seed):
    rng = np.random.default_rng(seed)
    draws = [
        tpr_at(member[rng.integers(0, member.size, member.size)], other[rng.integers(0, other.size, other.size)], fpr)
        for _ in range(n_bootstrap)
    ]
    return metrics.interval(np.array(draws)) if draws else None


def membership(members, others, n_bootstrap, seed):
    out = []
    for name, m in members.items():
        o = others[name]
        if not m.size or not o.size:
            continue
        score, y = np.r_[m, o], np.r_[np.ones(m.size), np.zeros(o.size)]
        draws = metrics.draw(
            lambda W, r=score, y=y: {"auc": metrics.weighted_auroc(r, y, W)}, np.arange(y.size), n_bootstrap, seed
        )["auc"]
        auc = metrics.auroc(score, y)
        two = metrics.p_value(auc - 0.5, draws - 0.5, min(m.size, o.size)) if min(m.size, o.size) > 1 else None
        row = {"attack": name, "auc": auc, "interval": metrics.interval(draws), "members": int(m.size), "others": int(o.size),
               "p": None if two is None else two / 2 if auc > 0.5 else 1 - two / 2}  # fmt: skip
        for label, fpr, least in [("1", 0.01, 100), ("0.1", 0.001, 1000)]:
            enough = o.size >= least
            row[f"tpr_at_{label}_percent"] = tpr_at(m, o, fpr) if enough else None
            row[f"tpr_at_{label}_percent_interval"] = tpr_interval(m, o, fpr, n_bootstrap, seed) if enough else None
        # Classes that are apart have no spread to test by.
        row["p"] = 1e-9 if row["p"] is None and auc == 1 else row["p"]
        out.append(row)
    return out


# ---- generated records ------------------------------------------------------------------------------------------------


def codes_of(s, split, n):
    """Sequences of event codes of the first n patients of a split, canaries left out."""
    v = shards.Vocabulary(s.args.data, s.dataset)
    part = shards.Split(s.args.data, s.dataset, split)
    rows = np.flatnonzero(part.column("patient_key") < CANARY_KEY)[:n]
    return [[v.code[k] for k in tokens if v.is_event[k]] for _, tokens, _, _ in part.timelines(rows)]


def people(s, label_files, n):
    """[(patient row, index in days)]: of a label file, else those whose record is longer than a year, a year before its end."""
    picked = futures.pick(s, label_files, n)
    if picked:
        return picked
    end = shards.Split(s.args.data, s.dataset, "held_out").column("observation_end")
    rows = np.flatnonzero(end > futures.HORIZON_DAYS * 1440)[:n]
    return [(int(r), (end[r] - futures.HORIZON_DAYS * 1440 + 0.5) / 1440) for r in rows]


def phi_scan(s, picked):
    """Findings in the futures that were generated for these people, as they were written."""
    text = s.work / "generated.jsonl"
    lines = []
    for patient, _ in picked:
        for line in (s.work / "futures" / f"{patient}.jsonl").read_text().splitlines():
            r = json.loads(line)
            if r["kind"] == "future":
                lines.append(json.dumps([[e["code"], e["name"], e["kind"]] for e in r["events"]]))
    text.write_text("\n".join(lines) + "\n")
    found, log = s.work / "phi-scan.json", s.work / "phi-scan.log"
    found.unlink(missing_ok=True)
    started = time.time()
    rc, end = suite.command([suite.program("ehr-data"), "phi-scan", text, "--json", found], log)
    s.timed("phi-scan", started)
    kinds = {}
    for f in shards.read_json(found, "findings of phi-scan")["findings"] if found.exists() else []:
        kinds[f["kind"]] = kinds.get(f["kind"], 0) + int(f["count"])
    if rc and not kinds:  # it did not search, or not the whole
        raise shards.BadFile(f"ehr-data phi-scan failed:\n{end}")
    return {"timelines": len(lines), "findings": kinds, "clean": not kinds}


def generated(s, label_files, out, pool):
    picked = people(s, label_files, PEOPLE)
    if not picked:
        s.notes.append("nothing was generated: no held-out patient has a record of more than a year")
        return
    made = futures.generate(s, picked, s.args.samples or -(-GENERATED // len(picked)))
    events = [[[c for _, kind, c in f if kind != "value"] for f in m["futures"]] for m in made]
    recorded = [[c for _, kind, c in m["recorded"] if kind != "value"] for m in made]
    records = [f for m in events for f in m if f]
    if records:
        started = time.time()
        suite.say(f"{len(records)} generated records against {pool} train and {pool} tuning records")
        out["copying"] = copying.measure(records, codes_of(s, "train", pool), codes_of(s, "tuning", pool),
                                         [m[0] if m else [] for m in events], recorded, s.args.seed)  # fmt: skip
        s.timed("copying", started)
    out["identifiers"] = phi_scan(s, picked)


# ---- the suite --------------------------------------------------------------------------------------------------------


def exposure(s, trained):
    """Of canaries, when the checkpoint says that it was trained on some, or their reference is given."""
    folder = s.args.canaries or s.args.data.resolve().with_name(s.args.data.resolve().name + ".canaries")
    if not s.args.canaries and not trained.get("canaries"):
        return None
    if not (folder / "dataset.json").exists():
        if s.args.canaries:
            raise shards.BadFile(f"--canaries {folder}: no dataset there: expected what `ehr-data tokenize --canaries` wrote")
        s.notes.append(f"exposure was not measured: the checkpoint was trained on canaries, but {folder}, which `ehr-data tokenize "
                       "--canaries` writes beside the dataset, is not there: give it by --canaries")  # fmt: skip
        return None
    about = shards.read_json(folder / "dataset.json", "a dataset").get("canaries", {})
    if "sequences" not in about:
        raise shards.BadFile(f"{folder}: no canaries: expected what `ehr-data tokenize --canaries` wrote")
    columns = tokens_of(s, s.args.checkpoint, folder, "held_out", 0, "canaries")
    loss = {k: float(x.sum()) for k, x in losses(columns).items()}
    found = canaries.measure(loss, int(about["sequences"]), s.args.bootstrap, s.args.seed)
    pair = [np.array([x for k, x in loss.items() if (k < about["sequences"]) == mine]) for mine in (True, False)]
    return {**found, "copies": int(about["copies"]), "declared": bool(trained.get("canaries")), "_losses": pair}


def raise_alarms(found):
    """Marks what is significant among all tests; (alarms, tests)."""
    tests = [("membership by " + m["attack"], m) for m in found["membership"]]
    tests += [("canaries", found["canaries"])] if found.get("canaries") else []
    tests += [(k, found["copying"][k]) for k in ("longest_shared_run", "nearest_distance", "against_recorded") if k in found.get("copying", {})]
    tests += [("attribute: " + r["figure"], r) for r in (found.get("attributes") or {}).get("figures", [])]
    tests = [(name, t) for name, t in tests if t["p"] is not None]
    for (name, t), alarm in zip(tests, metrics.benjamini_hochberg([t["p"] for _, t in tests]), strict=True):
        t["alarm"] = bool(alarm)
    names = [name for name, t in tests if t["alarm"]]
    if "identifiers" in found and not found["identifiers"]["clean"]:
        names.append(IDENTIFIERS)
    return names, len(tests)


def told_of(s, trained):
    """Notes what the checkpoint does not say, and refuses a reference that is none."""
    if not trained.get("dataset_sha256"):
        s.notes.append(f"the checkpoint does not say which dataset it was trained on: unless that was {s.args.data}, its train split has no "
                       "members, and that nothing tells them apart says nothing")  # fmt: skip
    if trained.get("parent"):
        s.notes.append(f"the checkpoint was continued from {trained['parent']}: what it gives away of the patients that one was trained on was not tested")
    if s.dataset.get("settings", {}).get("split") == "given" and s.dataset.get("source") != "oracle":
        s.notes.append("the splits are those that the source came with: if its tuning patients are others than its train patients for any reason "
                       "but chance, of another time or place, that shows here as membership")  # fmt: skip
    reference = s.args.reference and s.args.reference / "trainer.json"
    if reference and reference.exists():
        of = shards.read_json(reference, "a trainer record").get("provenance", {}).get("dataset_sha256")
        if of == shards.sha256(s.args.data / "dataset.json"):
            raise shards.BadFile(f"--reference {s.args.reference} was trained on {s.args.data}, too: its members are the same, and against it "
                                 "nobody stands out; give a checkpoint of other patients")  # fmt: skip


def measure(s, label_files, patients):
    """patients: of each split, 0 = all."""
    trainer = s.args.checkpoint / "trainer.json"
    trained = shards.read_json(trainer, "a trainer record").get("provenance", {}) if trainer.exists() else {}
    if trained.get("dataset_sha256", "") not in ("", shards.sha256(s.args.data / "dataset.json")):
        raise shards.BadFile(
            f"{s.args.data} is not the dataset that {s.args.checkpoint} was trained on: its train split has no members"
        )
    size = {k: s.dataset["splits"].get(k, {}).get("patients", 0) for k in ("train", "tuning")}
    made_up = s.dataset.get("canaries", {})
    size["train"] -= made_up.get("sequences", 0) * made_up.get("copies", 0)
    limit = {k: min(patients or n, n) for k, n in size.items()}
    told_of(s, trained)
    fewest = min(limit, key=limit.get)
    if limit[fewest] < LEAST:
        raise shards.BadFile(
            f"{s.args.data}: {limit[fewest]} patients of the {fewest} split{f' (--limit {patients})' if patients and patients < size[fewest] else ''} "
            f"are too few to tell members from others: at least {LEAST} are needed of the train and of the tuning split"
        )
    vocabulary = shards.Vocabulary(s.args.data, s.dataset)
    sensitive = attributes.sensitive_tokens(vocabulary, s.args.sensitive)
    codes = sorted({vocabulary.base[i] for i in np.flatnonzero(sensitive)})
    attacks, mentions = [], []
    for split in ("train", "tuning"):
        columns = tokens_of(s, s.args.checkpoint, s.args.data, split, limit[split], "members", codes)
        reference = None
        if s.args.reference:
            reference = losses(tokens_of(s, s.args.reference, s.args.data, split, limit[split], "reference"))
        attacks.append(scores(losses(columns), reference, of_law(s, split, columns)))
        if codes:
            mentions.append(attributes.Mentions(columns, vocabulary, sensitive))
    found = {"membership": membership(*attacks, s.args.bootstrap, s.args.seed)}
    found["_attacks"] = [(k, m, attacks[1][k]) for k, m in attacks[0].items()]
    found["canaries"] = exposure(s, trained)
    if codes:
        found["attributes"] = attributes.compare(*mentions, s.args.bootstrap, s.args.seed)
        if not found["attributes"]:
            s.notes.append(f"attribute inference was not measured: fewer than {attributes.LEAST} patients of a split have a first mention of a sensitive code")
        else:
            found["attributes"]["codes"] = codes
    else:
        s.notes.append("attribute inference was not measured: the vocabulary has none of the sensitive codes: give a list by --sensitive")
    generated(s, label_files, found, min(limit.values()))
    found["alarms"], found["tests"] = raise_alarms(found)
    return found


def told(found):
    """Lines for the terminal."""
    lines = []

    def line(name, value, box, test):
        about = f" ({box[0]:.3f} to {box[1]:.3f})" if box else ""
        lines.append(f"{name:44} {value:7.3f}{about}{'  ALARM' if test.get('alarm') else ''}")

    for m in found["membership"]:
        line(f"membership by {m['attack']}, AUC", m["auc"], m["interval"], m)
    c = found.get("canaries")
    if c:
        line(f"canaries, exposure ({c['by_chance']:.2f} by chance)", c["exposure"], c["interval"], c)
    for k in ("longest_shared_run", "nearest_distance", "against_recorded"):
        if k in found.get("copying", {}):
            t = found["copying"][k]
            line(f"copying by {k.replace('_', ' ')}, towards train", t["towards_train"], None, t)
    for r in (found.get("attributes") or {}).get("figures", []):
        line(f"withheld codes, {r['figure'].replace('_', ' ')}, train less others", r["gap"], r["interval"], r)
    if "identifiers" in found:
        i = found["identifiers"]
        lines.append(f"phi-scan of {i['timelines']} generated timelines: {'nothing' if i['clean'] else i['findings']}")
    lines.append(f"{len([a for a in found['alarms'] if a != IDENTIFIERS])} alarms of {found['tests']} tests of privacy")
    return lines
