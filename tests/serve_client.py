"""Asks a running `ehr-infer serve` what tests/test_serve.sh says; prints "ok - NAME" or "not ok - NAME: why".

    serve_client.py same URL KEY DATASET EVENTS RISK.csv...   answers are those of `ehr-infer risk`, by tokens and by raw events
"""
import csv, http.client, json, socket, sys, threading, time, urllib.parse


def ask(url, path, body=None, key=None, method=None, timeout=60):
    u = urllib.parse.urlsplit(url)
    c = http.client.HTTPConnection(u.hostname, u.port, timeout=timeout)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    headers = {"Authorization": "Bearer " + key} if key else {}
    c.request(method or ("POST" if data is not None else "GET"), path, data, headers)
    r = c.getresponse()
    text = r.read()
    c.close()
    try:
        return r.status, json.loads(text), dict(r.getheaders())
    except ValueError:
        return r.status, text.decode(), dict(r.getheaders())


failed = False


def check(name, good, why=""):
    global failed
    failed |= not good
    print(f"ok - {name}" if good else f"not ok - {name}: {str(why)[:600]}")


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
    with h5py.File(folder + "/events.h5") as f:
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
    return bad


def same(url, key, data, events, outcomes, files):
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
    raw(url, key, events, outcomes, patients, tables["mc"])


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


def first(record):
    import calendar
    times = [calendar.timegm(time.strptime(e["time"], "%Y-%m-%dT%H:%M:%S")) for e in record if "time" in e and e["code"] != "MEDS_BIRTH"]
    return min(times)


if __name__ == "__main__":
    command, args = sys.argv[1], sys.argv[2:]
    if command == "same":
        same(args[0], args[1], args[2], args[3], json.loads(args[4]), args[5:])
    sys.exit(failed)
