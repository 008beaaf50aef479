"""Whether answers are those of `ehr-infer risk`, `explain` and `embed`, digit for digit, of rows told as tokens and as raw events."""
import csv, json, sys, threading, time

from serve_ask import ask, check, gauge


def dataset(folder):
    """Rows of every split: {(split, row): (key, tokens, minutes, static ids, age)}"""
    import h5py, os
    out = {}
    for i, split in enumerate(["train", "tuning", "held_out"]):
        row = 0
        for name in sorted(f for f in os.listdir(folder) if f.startswith(split + "-")):
            with h5py.File(os.path.join(folder, name)) as f:
                at, tokens, minutes = f["patient_offsets"][:], f["tokens"][:], f["minutes"][:]
                keys, statics = f["patient_key"][:], f["patient_static"][:]
                for p in range(len(keys)):
                    a, b = at[p], at[p + 1]
                    out[i, row] = (int(keys[p]), tokens[a:b].tolist(), minutes[a:b].tolist(), statics[p][:-1].tolist(), int(statics[p][-1]))
                    row += 1
    return out


def risks(path):
    with open(path) as f:
        lines = [line for line in f if not line.startswith("#")]
    return list(csv.DictReader(lines))


def by_tokens(row, patients):
    key, tokens, minutes, statics, age = patients[int(row["split"]), int(row["patient_row"])]
    n = sum(m <= int(row["index_minutes"]) for m in minutes)
    p = {"tokens": tokens[:n], "minutes": minutes[:n], "statics": statics, "key": str(key), "index_minutes": int(row["index_minutes"])}
    return p if age > 199 else {**p, "age_years": age}


def events_of(folder, subject_row):
    import h5py
    with h5py.File(folder if folder.endswith(".h5") else folder + "/events.h5") as f:
        a, b = f["patient_offsets"][subject_row], f["patient_offsets"][subject_row + 1]
        codes, units = f["codes"][:], f["units"][:]
        out = []
        for i in range(a, b):
            e = {"code": codes[f["code"][i]].decode().rstrip("\0")}
            t, value, unit = int(f["available"][i]), float(f["numeric_value"][i]), units[f["unit"][i]].decode().rstrip("\0")
            if t > -(2**62):
                e["time"] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t // 10**6))
            if value == value:
                e["value"] = value
            if unit:
                e["unit"] = unit
            out.append(e)
        return out


def compare(answer, rows, what):
    bad = []
    for outcome, row in zip(answer["outcomes"], rows):
        pairs = [("risk", outcome["risk"]), ("mc_se", outcome["mc_se"]), ("risk_lo", outcome["interval"][0]), ("risk_hi", outcome["interval"][1]),
                 ("competing_risk", outcome["competing_risk"]), ("lead_days", outcome["lead_days"]), ("mean_tokens", outcome["mean_tokens"])]
        for name, value in pairs:
            told = "" if value is None else f"{value:.9g}"
            if told != row[name]:
                bad.append((what, outcome["name"], name, told, row[name]))
    if answer["reason"] != int(rows[0]["reason"]) & ~4: # 4, too strange, needs other patients
        bad.append((what, "reason", answer["reason"], rows[0]["reason"]))
    return bad


def same(url, key, infer, data, events, outcomes, files):
    patients = dataset(data)
    tables = {e: [risks(f"{f}-{e}.csv") for f in files] for e in ("mc", "scope", "reach")}
    for estimator, table in tables.items():
        body = {"outcomes": outcomes, "samples": 8, "seed": 5, "estimator": estimator}
        bad, results = [], [None] * len(table[0])

        def one(i):
            results[i] = ask(url, "/v1/risk", {**body, "patient": by_tokens(table[0][i], patients)}, key)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(table[0]))]
        [t.start() for t in threads]
        [t.join() for t in threads]
        for i, (status, answer, _) in enumerate(results):
            if status != 200:
                bad.append((status, answer))
            else:
                bad += compare(answer, [t[i] for t in table], i)
        check(f"{estimator}: {len(table[0])} clients at once get the numbers of ehr-infer risk, digit for digit", not bad and len(table[0]) > 3, bad[:3])
    embeddings(url, key, data, tables["mc"][0], "embeddings.npy")
    explanation(url, key, data, tables["mc"][0], infer)
    raw(url, key, events, outcomes, patients, tables["mc"])


def embeddings(url, key, data, table, file):
    """Vectors are those of ehr-infer embed, to the bit; FILE.npy and its rows."""
    import base64
    import numpy as np
    patients, want, bad = dataset(data), np.load(file), 0
    results = [None] * len(table)

    def one(i):
        body = {"patient": by_tokens(table[i], patients), "encoding_format": "base64" if i % 2 else "float"}
        results[i] = ask(url, "/v1/embeddings", body, key)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(table))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for (status, answer, _), row in zip(results, want):
        v = answer["data"][0]["embedding"] if status == 200 else []
        v = np.frombuffer(base64.b64decode(v), "<f4") if isinstance(v, str) else np.array(v, "f4")
        bad += not np.array_equal(v, row)
    check(f"embeddings of {len(table)} patients are those of ehr-infer embed", bad == 0 and len(table) == len(want) > 3, (bad, results[0]))


def explanation(url, key, data, rows, infer):
    """Explanations are those of `ehr-infer explain`, number by number, whatever estimator the risk itself has."""
    import subprocess
    patients = dataset(data)
    row = next(r for r in sorted(rows, key=lambda r: int(r["known_tokens"])) if int(r["known_tokens"]) > 12 and int(r["index_minutes"]) > 1440)
    days = int(row["index_minutes"]) // 1440
    patient = by_tokens({**row, "index_minutes": days * 1440}, patients)
    for name, outcomes, horizon in (("a code", ["VISIT//IN"], 365), ("another horizon", ["VISIT//OUT"], 30)):
        told = json.loads(subprocess.run([infer, "explain", "r", "--data", data, "--patient", "key:" + patient["key"], "--at", f"{days}d", "--json", "--outcome", outcomes[0],
                                          "--horizon", f"{horizon}d", "--events", "6", "--samples", "8", "--seed", "5"], capture_output=True, check=True).stdout)
        for estimator in ("reach", "scope", "mc"):
            body = {"outcomes": outcomes + ["MEDS_DEATH"], "horizon": f"{horizon}d", "samples": 8, "seed": 5, "patient": patient, "estimator": estimator}
            status, answer, _ = ask(url, "/v1/risk", {**body, "explain": 6}, key)
            plain = ask(url, "/v1/risk", body, key)[1]["outcomes"]
            why = [o.pop("explanation") for o in answer["outcomes"]] if status == 200 else answer
            check(f"{estimator}, explained or not: the risk is the same", status == 200 and answer["outcomes"] == plain, (answer, plain))
            got = [[e["token"], e["change"], e["se"], *e["interval"]] for e in why[0]["events"]]
            want = [[e["token"], e["change"], e["se"], e["lo"], e["hi"]] for e in told["events"]]
            same = len(got) == len(want) == 6 and all(a[0] == b[0] and all(abs(x - y) <= 1e-8 * abs(y) for x, y in zip(a[1:], b[1:])) for a, b in zip(got, want))
            check(f"{estimator}, {name}: explained with the numbers of ehr-infer explain", same and any(e[1] for e in got), (got, want))
    check("what is not looked at is told", why[0]["not_looked_at"] == told["older_events_skipped"] and all(e["days"] <= 0 for e in why[0]["events"]), (why[0], told))


def raw(url, key, events, outcomes, patients, table):
    """Raw events give the tokens, so the numbers, of the dataset; patients are found by their record."""
    import h5py
    with h5py.File(events + "/events.h5") as f:
        n = len(f["subject_id"])
    bad, tried = [], 0
    by_record = {}
    for s in range(n):
        record = events_of(events, s)
        status, answer, _ = ask(url, "/v1/score", {"patient": {"events": record}}, key)
        if status == 200:
            by_record[tuple(t["id"] for t in answer["tokens"]), tuple(t["minutes"] for t in answer["tokens"])] = record
        if s > 80:
            break
    for i, row in enumerate(table[0]):
        k, tokens, minutes, statics, age = patients[int(row["split"]), int(row["patient_row"])]
        record = by_record.get((tuple(tokens), tuple(minutes)))
        if not record:
            continue
        record = record[::-1]
        tried += 1
        status, answer, _ = ask(url, "/v1/risk", {"outcomes": outcomes, "samples": 8, "seed": 5, "estimator": "mc", "patient": {
            "events": record, "key": k, "index": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(first(record) + 60 * int(row["index_minutes"])))}}, key)
        bad += [(status, answer)] if status != 200 else compare(answer, [t[i] for t in table], i)
    check(f"raw events in any order become the dataset's tokens: {tried} patients", tried > 2 and not bad, (tried, len(by_record), bad[:3]))


def notes(url, events, data):
    """Raw events with texts give the tokens of the dataset, however the texts are spaced and whichever comes first."""
    import h5py
    with h5py.File(events) as f:
        rows, at, text = f["note_event"][:], f["note_offsets"][:], f["note_text"][:].tobytes()
        told, ends = {int(r): text[int(a):int(b)].decode() for r, a, b in zip(rows, at, at[1:])}, f["patient_offsets"][:]
    wanted = {(tuple(tokens), tuple(minutes)): statics for _, tokens, minutes, statics, _ in dataset(data).values()}
    v = ask(url, "/v1/vocabulary")[1]
    begin, found, whole, alike = v["notes"]["begin"], 0, 0, 0
    long = lambda s: any(len(told.get(r, "").encode()) > 65536 for r in range(int(ends[s]), int(ends[s + 1])))
    for s in [s for s in range(len(ends) - 1) if not long(s)][:24]:  # a release has its patients in an order of chance
        record = events_of(events, s)
        for i, e in enumerate(record):
            if "time" not in e:
                e["kind"] = "static"
            if int(ends[s]) + i in told:
                e["text"] = " \r\n" + told[int(ends[s]) + i].replace("\n", "\r\n") + "  "
        status, answer, _ = ask(url, "/v1/score", {"patient": {"events": record[::-1]}})
        if status != 200:
            break
        ids, minutes = tuple(t["id"] for t in answer["tokens"]), tuple(t["minutes"] for t in answer["tokens"])
        found += status == 200 and (ids, minutes) in wanted
        whole += ids.count(begin)
        again = ask(url, "/v1/score", {"patient": {"tokens": ids, "minutes": minutes, "statics": wanted.get((ids, minutes), [])}})
        alike += again[0] == 200 and [t["id"] for t in again[1]["tokens"]] == list(ids)
    check(f"raw events with texts become the dataset's tokens: {found} patients, {whole} notes", found > 4 and whole > 8, (found, whole, status, str(answer)[:300]))
    check("and may be told as tokens", alike > 4, again)
    status, answer, _ = ask(url, "/v1/risk", {"patient": {"events": record}, "outcomes": ["MEDS_DEATH"], "horizon": "365d", "samples": 4, "explain": 3})
    check("risks of records with notes are told and explained", status == 200 and 0 < len(answer["outcomes"][0]["explanation"]["events"]) <= 3 and
          not any(e["code"].startswith("SPELL//") for e in answer["outcomes"][0]["explanation"]["events"]), answer)
    one = {"code": record[-1]["code"], "minutes": 0}
    for name, words, event in [("no text", "takes a text", {"text": 3}), ("a text too long", "at most 65536 bytes", {"text": "x" * 65537})]:
        status, answer, _ = ask(url, "/v1/score", {"patient": {"events": [{**one, **event}]}})
        check(f"{name}: 400", status == 400 and words in str(answer), answer)
    status, answer, _ = ask(url, "/v1/score", {"patient": {"events": [{**one, "minutes": i, "text": "x"} for i in range(1025)]}})
    check("too many texts: 400", status == 400 and "1024 texts" in str(answer), answer)
    said = [ask(url, "/v1/score", {"patient": {"events": [{**one, "text": "cough, call " + t + " about a man of " + a}]}})[1]["tokens"] for t, a in (("617-555-0134", "97 years"), ("[PHONE]", "[AGE] years"), ("him", "57 years"))]
    check("what looks like an identifier is masked, as in the release the model learned from", said[0] == said[1] != said[2], [[t["code"] for t in x] for x in said])
    empty = [ask(url, "/v1/score", {"patient": {"events": [{**one, **t}]}})[1]["n"] for t in ({}, {"text": " \n"}, {"text": None})]
    check("a text of blanks is none", empty[0] == empty[1] == empty[2], empty)


def first(record):
    import calendar
    times = [calendar.timegm(time.strptime(e["time"], "%Y-%m-%dT%H:%M:%S")) for e in record if "time" in e and e["code"] != "MEDS_BIRTH"]
    return min(times)


def rows(url, key, data, outcomes, table, samples, pid):
    import serve_load
    patients, table = dataset(data), risks(table)
    before, spent, lock, bad = gauge(url, key, "tokens_total"), serve_load.cpu(pid), threading.Lock(), []
    left = list(range(len(table)))

    def client():
        while True:
            with lock:
                if not left:
                    return
                i = left.pop(0)
            body = {"outcomes": outcomes, "samples": samples, "seed": 5, "estimator": "mc", "patient": by_tokens(table[i], patients)}
            status, answer, _ = ask(url, "/v1/risk", body, key, timeout=600)
            bad.extend([(status, answer)] if status != 200 else compare(answer, [table[i]], i))

    start = time.time()
    threads = [threading.Thread(target=client) for _ in range(64)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    took = time.time() - start
    time.sleep(0.2)
    print(f"{gauge(url, key, 'tokens_total') - before:.0f} tokens {serve_load.cpu(pid) - spent:.2f} s computed, {took:.2f} s waited")
    if bad:
        print("other answers:", bad[:3])
        sys.exit(1)
