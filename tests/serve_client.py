"""Asks a running `ehr-infer serve` what tests/test_serve.sh says; prints "ok - NAME" or "not ok - NAME: why".

    serve_client.py same URL KEY EHR-INFER DATASET EVENTS OUTCOMES NAME...   answers are those of `ehr-infer risk`
                                                    (NAME-ESTIMATOR.csv) and `ehr-infer explain`
    serve_client.py answers URL KEY                 completions, scores, what errors say
    serve_client.py attacks URL KEY OTHER READ_S LOG   OTHER has the scope score alone; READ_S: the server's --read-timeout
    serve_client.py streams URL KEY                 completions in pieces; clients that go away
    serve_client.py openai URL KEY                  OpenAI's own client
    serve_client.py rows URL KEY DATASET OUTCOMES NAME.csv SAMPLES PID   64 clients ask the rows of ehr-infer risk; prints
                                                    tokens drawn, and seconds that the server computed
    serve_client.py notes URL EVENTS.h5 DATASET     raw events with free texts, to a model of notes
    serve_client.py one URL KEY                     prints the answer to a risk and a score
    serve_client.py second URL KEY same|other       completions and embeddings beside a second checkpoint
    serve_client.py shadowed URL KEY                the metrics of a server with a second checkpoint
    serve_client.py maps URL KEY FILE               risks recalibrated by FILE, of admission_1y
    serve_client.py burst URL KEY N SAMPLES [ANSWERS]   N requests at once; prints how many ended with which status
"""
import csv, hashlib, http.client, json, socket, sys, threading, time, urllib.parse


def ask_bytes(url, path, body=None, key=None, method=None, timeout=60, name=None):
    u = urllib.parse.urlsplit(url)
    c = http.client.HTTPConnection(u.hostname, u.port, timeout=timeout)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    headers = {"Authorization": "Bearer " + key} if key else {}
    headers |= {"Idempotency-Key": name} if name is not None else {}
    c.request(method or ("POST" if data is not None else "GET"), path, data, headers)
    r = c.getresponse()
    text = r.read()
    c.close()
    return r.status, text, dict(r.getheaders())


def ask(*args, **kwargs):
    status, text, headers = ask_bytes(*args, **kwargs)
    try:
        return status, json.loads(text), headers
    except ValueError:
        return status, text.decode(), headers


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
    if answer["reason"] != int(rows[0]["reason"]) & 3: # 4, too strange, needs other patients
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
    for s in range(min(24, len(ends) - 1)):
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


PATIENT = {"events": [{"code": "SEX//F"}, {"code": "RACE//WHITE"}, {"code": "MEDS_BIRTH", "time": "1950-02-03"},
                      {"code": "ICD10CM//I50.9", "time": "2024-01-01"}, {"code": "LOINC//4548-4", "time": "2024-01-01T08:00", "value": 7.2, "unit": "%"}]}
RISK = {"patient": PATIENT, "outcomes": ["VISIT//IN", {"codes": ["MEDS_DEATH"], "horizon": "5y"}], "horizon": "365d", "samples": 4}


def answers(url, key):
    def good(name, status, body, path="/v1/risk"):
        got, answer, headers = ask(url, path, body, key)
        check(name, got == status, (got, answer))
        return answer

    a, b = good("a risk", 200, RISK), good("the same risk again", 200, RISK)
    check("the same request, the same answer", a == b, (a, b))
    other = good("another seed", 200, {**RISK, "seed": 2})
    check("another seed, another answer", other["outcomes"] != a["outcomes"])
    o = a["outcomes"]
    check("risks with their intervals", all(x["interval"][0] <= x["risk"] <= x["interval"][1] and x["mc_se"] >= 0 for x in o) and
          [x["horizon_days"] for x in o] == [365, 1826.25] and len(a["model"]["sha256"]) == 64, a)
    unknown = {"events": PATIENT["events"] + [{"code": f"ICD10CM//ZZ{i}", "time": "2024-01-02"} for i in range(9)]}
    c = good("a record of unknown codes", 200, {**RISK, "patient": unknown})
    check("reasons not to rely on a risk", a["reason"] == 1 and c["reason"] == 2 and c["reasons"] == ["too much unknown"] and
          c["patient"]["unknown_events"] == 9, (a, c))
    both = [good("one outcome", 200, {**RISK, "outcomes": [x]})["outcomes"][0] for x in RISK["outcomes"]]
    check("two outcomes asked together get what each gets alone", both == o, (both, o))
    c = good("a completion of codes", 200, {"prompt": [["SEX//F", "RACE//WHITE", "ICD10CM//I50.9"]], "max_tokens": 4, "n": 2, "logprobs": 0, "seed": 4}, "/v1/completions")
    ids = [x["token_ids"] for x in c["choices"]]
    again = good("the same by ids", 200, {"prompt": "SEX//F RACE//WHITE ICD10CM//I50.9", "max_tokens": 4, "n": 2, "seed": 4}, "/v1/completions")
    check("prompts as codes and as text are one", [x["token_ids"] for x in again["choices"]] == ids and len(ids) == 2 and ids[0] != ids[1], (c, again))
    check("as OpenAI shapes it", c["object"] == "text_completion" and c["usage"]["completion_tokens"] == sum(map(len, ids)) and
          all(x["finish_reason"] in ("length", "stop") and len(x["text"].split()) == len(x["token_ids"]) for x in c["choices"]), c)
    for x in c["choices"]:
        told = [y for y in good("a score", 200, {"prompt": "SEX//F RACE//WHITE ICD10CM//I50.9 " + x["text"]}, "/v1/score")["tokens"]]
        logprobs = x["logprobs"]["token_logprobs"]
        check("and where each token stands in the text", [x["text"][a:].split()[0] for a in x["logprobs"]["text_offset"]] == x["logprobs"]["tokens"] == x["text"].split(), x)
        check("log probabilities are those of a score", len(told) == 1 + len(logprobs) and
              all(abs(t["logprob"] - l) < 1e-6 and l < 0 for t, l in zip(told[1:], logprobs)), (told, logprobs))
    cold = [good("temperature 0", 200, {"prompt": "SEX//F RACE//WHITE", "max_tokens": 3, "temperature": 0, "seed": i}, "/v1/completions") for i in (1, 2)]
    check("temperature 0 does not depend on the seed", cold[0]["choices"] == cold[1]["choices"], cold)
    for name, words, change in [
        ("no outcome", "outcomes takes", {"outcomes": []}), ("an outcome that is no token", "nearest are", {"outcomes": ["ICD10CM//I50000"]}),
        ("no horizon", "needs a horizon", {"horizon": None}), ("an endless horizon", "at most", {"horizon": "900y"}),
        ("a misspelt member", "horizn", {"horizn": 3}), ("too many samples", "from 1 to", {"samples": 10**9}),
        ("half a sample", "whole number", {"samples": 1.5}), ("no patient", "patient takes", {"patient": None}),
        ("an event without a code", "code takes", {"patient": {"events": [{"time": "2020-01-01"}]}}),
        ("an event without a time", "needs a time", {"patient": {"events": [{"code": "VISIT//OUT"}]}}),
        ("a time that is none", "takes a date", {"patient": {"events": [{"code": "VISIT//OUT", "time": "yesterday"}]}}),
        ("a note", "knows no notes", {"patient": {"events": [{"code": "VISIT//OUT", "time": "2020-01-01", "text": "Seen."}]}}),
        ("too long an explanation", "from 0 to", {"explain": 1000}), ("a token that is none", "is no token", {"patient": {"tokens": [10**6]}}), ("temperature in a risk", "temperature", {"temperature": 2}),
    ]:
        body = {**RISK, **change}
        answer = good(f"{name}: 400", 400, {k: v for k, v in body.items() if v is not None})
        check(f"{name}: the message helps", words in str(answer), answer)
    for name, extra in [("log probabilities of other tokens", {"logprobs": 3}), ("top_p", {"top_p": 0.5}), ("stop", {"stop": ["DEATH"]}),
                        ("best_of", {"best_of": 4}), ("options without a stream", {"stream_options": {"include_usage": True}})]:
        good(f"{name}: 400", 400, {"prompt": "SEX//F RACE//WHITE", **extra}, "/v1/completions")
    good("what asks for nothing is taken", 200, {"prompt": "SEX//F RACE//WHITE", "top_p": 1, "stop": None, "best_of": 1, "echo": False, "frequency_penalty": 0, "logit_bias": {}}, "/v1/completions")
    batches(url, key, good)
    status, text, _ = ask(url, "/metrics", None, key)
    check("metrics count what was done", 'ehr_requests_total{endpoint="risk",status="200"}' in text and 'ehr_unknown_token_ratio' in text, text)
    status, models, _ = ask(url, "/v1/models", None, key)
    check("models as OpenAI lists them", status == 200 and models["data"][0]["object"] == "model", models)
    status, info, _ = ask(url, "/info", None, key)
    check("the card tells stage, hash and provenance", status == 200 and info["model"]["sha256"] == a["model"]["sha256"] and info["provenance"], info)


def batches(url, key, good):
    """A list of texts, or of lists, is a batch: each record gets what it gets alone."""
    texts = ["SEX//F RACE//WHITE ICD10CM//I50.9", "SEX//M RACE//WHITE", "SEX//F RACE//WHITE ICD10CM//I50.9 VISIT//OUT"]
    lists = [t.split() for t in texts]
    ask_for = {"max_tokens": 5, "n": 2, "seed": 3, "logprobs": 0}
    alone = [good("a record alone", 200, {"prompt": t, **ask_for}, "/v1/completions") for t in texts]
    for name, prompt in (("texts", texts), ("lists", lists)):
        all_ = good(f"a batch of {name}", 200, {"prompt": prompt, **ask_for}, "/v1/completions")
        want = [{**c, "index": 2 * i + c["index"]} for i, a in enumerate(alone) for c in a["choices"]]
        check(f"a batch of {name} gets, record by record, what each gets alone", all_["choices"] == want and
              all_["usage"]["prompt_tokens"] == sum(a["usage"]["prompt_tokens"] for a in alone), (all_["choices"], want))
        vectors = good(f"embeddings of {name}", 200, {"input": prompt}, "/v1/embeddings")["data"]
        single = [good("an embedding alone", 200, {"input": [x]}, "/v1/embeddings")["data"][0]["embedding"] for x in prompt]
        check(f"embeddings of a batch of {name} likewise", [v["index"] for v in vectors] == [0, 1, 2] and [v["embedding"] for v in vectors] == single and single[0] != single[1], vectors)
    got = {}
    for x in list(pieces(connection(url, "/v1/completions", {"prompt": texts, "stream": True, **ask_for}, key).getresponse()))[:-1]:
        for c in json.loads(x)["choices"]:
            got[c["index"]] = got.get(c["index"], "") + c["text"]
    check("a batch in a stream", [got.get(i) for i in range(6)] == [c["text"] for c in all_["choices"]], got)
    for name, words, path, body in [("ids and texts in one list", "none of them", "/v1/completions", {"prompt": [1, "SEX//F"]}), ("too many records", "at most 256", "/v1/embeddings", {"input": ["SEX//F"] * 257}),
                                    ("too many choices", "at most", "/v1/completions", {"prompt": texts, "n": 400}), ("a batch to score", "one record", "/v1/score", {"prompt": texts}),
                                    ("a code that is none, in a batch", "input[1]", "/v1/embeddings", {"input": ["SEX//F RACE//WHITE", "NO//CODE"]}), ("lists of lists of lists", "input[0]", "/v1/embeddings", {"input": [[["SEX//F"]]]})]:
        answer = good(f"{name}: 400", 400, body, path)
        check(f"{name}: the message helps", words in str(answer), answer)


PROMPT = {"prompt": "SEX//F RACE//WHITE ICD10CM//I50.9", "n": 3, "seed": 4, "max_tokens": 40}


def connection(url, path, body, key):
    u = urllib.parse.urlsplit(url)
    c = http.client.HTTPConnection(u.hostname, u.port, timeout=60)
    c.request("POST", path, json.dumps(body).encode(), {"Authorization": "Bearer " + key})
    return c


def pieces(r):
    for line in r:
        if line.startswith(b"data: "):
            yield line[6:].strip().decode()


def gauge(url, key, name):
    text = ask(url, "/metrics", None, key)[1]
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"ehr_{name} ")))


def idle(url, key, seconds=5):
    until = time.time() + seconds
    while time.time() < until:
        if gauge(url, key, "requests_running") + gauge(url, key, "requests_waiting") == 0:
            return True
        time.sleep(0.05)
    return False


def streams(url, key):
    whole = ask(url, "/v1/completions", {**PROMPT, "logprobs": 0}, key)[1]
    r = connection(url, "/v1/completions", {**PROMPT, "logprobs": 0, "stream": True, "stream_options": {"include_usage": True}}, key).getresponse()
    check("a stream is one", r.status == 200 and r.getheader("Content-Type") == "text/event-stream", r.status)
    got = list(pieces(r))
    check("it ends with [DONE]", got[-1] == "[DONE]", got[-1:])
    got = [json.loads(x) for x in got[:-1]]
    text, ids, days, ends, told = {}, {}, {}, {}, {}
    for x in got[:-1]:
        for c in x["choices"]:
            text[c["index"]] = text.get(c["index"], "") + c["text"]
            ids.setdefault(c["index"], []).extend(c.get("token_ids", []))
            days.setdefault(c["index"], []).extend(c.get("days", []))
            if c["finish_reason"]:
                ends[c["index"]] = c["finish_reason"]
            for name in ("tokens", "token_logprobs", "text_offset"):
                told.setdefault(c["index"], {}).setdefault(name, []).extend((c["logprobs"] or {}).get(name, []))
    check("log probabilities in pieces are those of the whole answer", all(len(told[c["index"]]["tokens"]) == len(c["token_ids"]) and
          all(told[c["index"]][name] == c["logprobs"][name] for name in ("tokens", "token_logprobs", "text_offset")) for c in whole["choices"]), (told, whole))
    plain = ask(url, "/v1/completions", PROMPT, key)[1]
    check("asked for or not, the tokens are the same", [c["token_ids"] for c in plain["choices"]] == [c["token_ids"] for c in whole["choices"]] and plain["choices"][0]["logprobs"] is None, plain)
    check("its pieces are the whole answer", all(text[c["index"]] == c["text"] and ids[c["index"]] == c["token_ids"] and days[c["index"]] == c["days"] and
          ends[c["index"]] == c["finish_reason"] for c in whole["choices"]) and len(text) == 3, (text, whole))
    check("a token a piece", len(got) == sum(map(len, ids.values())) + 3 + 1, len(got))
    check("usage on request", got[-1]["choices"] == [] and got[-1]["usage"] == whole["usage"], got[-1])
    long = {"prompt": "SEX//F RACE//WHITE", "n": 1000, "max_tokens": 2000, "seed": 3}
    c = connection(url, "/v1/completions", {**long, "stream": True}, key)
    s = c.sock
    r = c.getresponse()
    first = next(pieces(r))
    check("the first piece comes before the last is drawn", gauge(url, key, "requests_running") == 1 and '"index":' in first, first)
    s.shutdown(socket.SHUT_RDWR)
    r.close()
    check("who hangs up in a stream frees its place", idle(url, key), "still running")
    c = connection(url, "/v1/completions", long, key)
    while gauge(url, key, "requests_running") == 0:
        time.sleep(0.01)
    c.sock.close()
    check("who hangs up before an answer frees its place", idle(url, key), "still running")
    c = connection(url, "/v1/completions", {**long, "stream": True}, key) # reads nothing
    until, text = time.time() + 30, ""
    while 'ehr_requests_total{endpoint="completions",status="499"} 3\n' not in text and time.time() < until:
        time.sleep(0.05)
        text = ask(url, "/metrics", None, key)[1]
    check("who does not read its stream is cut off, and all three are counted", time.time() < until, text)
    c.close()


def openai(url, key):
    import numpy as np
    from openai import OpenAI
    client = OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
    model = client.models.list().data[0].id
    said = client.completions.create(model=model, **PROMPT)
    check("OpenAI's client: completions", len(said.choices) == 3 and said.usage.completion_tokens > 0 and said.choices[0].finish_reason in ("stop", "length"), said)
    text = {}
    for piece in client.completions.create(model=model, stream=True, **PROMPT):
        for c in piece.choices:
            text[c.index] = text.get(c.index, "") + c.text
    check("OpenAI's client: streamed completions", [text[c.index] for c in said.choices] == [c.text for c in said.choices], (text, said))
    ids = client.completions.create(model=model, prompt=[1, 3, 8], max_tokens=2, temperature=0, logprobs=0)
    check("OpenAI's client: ids, log probabilities", len(ids.choices[0].logprobs.token_logprobs) == ids.usage.completion_tokens, ids)
    told = {}
    for piece in client.completions.create(model=model, stream=True, logprobs=0, **PROMPT):
        for c in piece.choices:
            told.setdefault(c.index, []).extend(c.logprobs.token_logprobs if c.logprobs else [])
    again = client.completions.create(model=model, logprobs=0, **PROMPT)
    check("OpenAI's client: streamed log probabilities", [told[c.index] for c in again.choices] == [c.logprobs.token_logprobs for c in again.choices] and told[0], (told, again))
    texts = [PROMPT["prompt"], "SEX//M RACE//WHITE"]
    many = client.completions.create(model=model, prompt=texts, n=2, max_tokens=3, seed=1)
    check("OpenAI's client: a batch of prompts", [c.index for c in many.choices] == [0, 1, 2, 3] and many.choices[0].text != many.choices[2].text, many)
    vectors = client.embeddings.create(model=model, input=texts)
    check("OpenAI's client: a batch of texts", [d.index for d in vectors.data] == [0, 1] and vectors.data[0].embedding != vectors.data[1].embedding, vectors)
    numbers = client.embeddings.create(model=model, input=[[1, 3, 8], [1, 3, 8, *said.choices[0].token_ids]])
    check("OpenAI's client: a batch of ids", [d.index for d in numbers.data] == [0, 1], numbers)
    one = client.embeddings.create(model=model, input=PROMPT["prompt"])
    two = client.embeddings.create(model=model, input=PROMPT["prompt"], encoding_format="float")
    check("OpenAI's client: embeddings", np.array_equal(np.array(one.data[0].embedding, "f4"), np.array(two.data[0].embedding, "f4")) and len(two.data[0].embedding) == 64, two)
    import openai as module
    try:
        client.completions.create(model=model, prompt="NO//SUCH//CODE")
        check("OpenAI's client: errors", False)
    except module.BadRequestError as e:
        check("OpenAI's client: errors", "NO//SUCH//CODE" in str(e), e)


def raw_exchange(url, data, pause=0, limit=20):
    """Sends bytes (or pieces, one every `pause` seconds); all that comes back until the other side closes."""
    u = urllib.parse.urlsplit(url)
    got, start = b"", time.time()
    with socket.create_connection((u.hostname, u.port), timeout=limit) as s:
        try:
            for piece in [data] if isinstance(data, bytes) else data:
                s.sendall(piece)
                if pause:
                    time.sleep(pause)
            s.settimeout(max(0.1, limit - (time.time() - start)))
            while piece := s.recv(65536):
                got += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
        except socket.timeout:
            return got, None
    return got, time.time() - start


def attacks(url, key, other, read_s, log):
    """Each is refused and in the audit log LOG, and the server lives."""
    def lines():
        with open(log) as f:
            return [(x["action"], x["status"], x["who"]) for x in map(json.loads, f)]

    def logged(name, before, want, count=1):
        """Of the lines after `before` exactly `count` tell a refusal, of status `want`; the rest are answers."""
        until = time.time() + 3
        while time.time() < until and sum(s != 200 for _, s, _ in lines()[before:]) < count:
            time.sleep(0.02)
        told = [x for x in lines()[before:] if x[1] != 200]
        check(f"{name}: in the log", len(told) == count and all(x[1] == want for x in told), (want, told))

    def alive(name):
        check(f"{name}: the server lives", ask(url, "/health")[0] == 200)

    head = f"POST /v1/risk HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    body = json.dumps(RISK).encode()
    deep = b'{"patient":' + b"[" * 20000 + b"]" * 20000 + b"}"
    for name, want, kwargs in [
        ("no key", 401, {"key": None}), ("a wrong key", 401, {"key": key[:-1] + ("A" if key[-1] != "A" else "B")}), ("an endless key", 401, {"key": "x" * 9000}),
        ("a key of another scope", 403, {"key": other}), ("nothing there", 404, {"path": "/v1/secrets"}), ("a path upwards", 404, {"path": "/v1/../v1/risk"}),
        ("an escaped path upwards", 404, {"path": "/%2e%2e/%2e%2e/etc/passwd"}), ("a doubled slash", 404, {"path": "//v1/risk"}),
        ("a slash behind", 404, {"path": "/v1/risk/"}), ("a NUL in the path", 404, {"path": "/v1/risk%00.html"}), ("another method", 405, {"method": "PUT"}),
        ("GET of a POST", 405, {"method": "GET", "body": None}), ("DELETE", 405, {"method": "DELETE"}), ("TRACE", 405, {"method": "TRACE", "body": None}),
        ("an empty body", 400, {"body": b""}), ("no JSON", 400, {"body": b"\x00\xff\xfe{"}), ("a JSON bomb of brackets", 400, {"body": deep}),
        ("brackets in a text", 400, {"body": b'{"' + b"[" * 30000 + b'": 1}'}), ("a member twice", 400, {"body": b'{"seed": 1, "seed": 2}'}),
        ("text that is not UTF-8", 400, {"body": b'{"patient": "\xc3\x28"}'}), ("a list", 400, {"body": b"[1, 2]"}), ("a huge number", 400, {"body": b'{"seed": 1' + b"0" * 5000 + b"}"}),
        ("a body too long", 413, {"body": b" " * 300000}), ("30,000 events", 400, {"body": {**RISK, "patient": {"events": [{"code": "A"}] * 15000}}}),
    ]:
        args, before = {"path": "/v1/risk", "body": RISK, "key": key, "method": "POST", **kwargs}, len(lines())
        try:
            status, answer, _ = ask(url, args["path"], args["body"], args["key"], args["method"])
        except (ConnectionResetError, BrokenPipeError, http.client.HTTPException) as e:
            status, answer = None, repr(e)
        check(f"{name}: {want}", status == want or (status is None and want == 413), (status, answer))
        logged(name, before, want)
    alive("after bad requests")
    twice = [ask(url, "/v1/risk", RISK, key) for _ in range(2)]
    check("a replayed body: the same answer, nothing more", twice[0][:2] == twice[1][:2] and twice[0][0] == 200, twice)
    for want, names in [([200, 409, 409, 200], "aaab"), ([400, 200, 409], "ddd"), ([400], ["c" * 256]), ([400], [""])]:
        before = len(lines())
        bodies = [{} if name == "d" and i == 0 else RISK for i, name in enumerate(names)]
        got = [ask(url, "/v1/risk", body, key, name=name)[0] for name, body in zip(names, bodies)]
        check(f"names of requests: {want}", got == want, got)
        if 409 not in want or 400 not in want:
            logged("requests named wrong or again", before, max(want), sum(s != 200 for s in want))
    chunk, before = b"10000\r\n" + b" " * 65536 + b"\r\n", len(lines())
    got, _ = raw_exchange(url, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n")
    check("chunks without end: 413 or closed", b" 413 " in got or not got, got[:200])
    logged("chunks without end", before, 413)
    health, garbage = b"GET /health HTTP/1.1\r\nHost: x\r\n", bytes(range(256)) * 4
    one = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    flood = health + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(5000)) + b"\r\n"
    # Alone, and on a connection that has asked something before, at once or a moment later.
    for first, good in (([], 0), ([health + b"\r\n"], 1), ([one + one], 2)):
        after = f"behind {good} requests, " if good else ""
        for name, data in [("a flood of headers", flood), ("a path without end", b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n\r\n"), ("garbage", garbage), ("a line of text", b"garbage\r\n\r\n"),
                           ("another protocol", b"PRI * HTTP/9.9\r\n\r\nSM\r\n\r\n"), ("no host", b"GET /health HTTP/1.1\r\n\r\n"), ("half a request", health[:20])]:
            for pieces in ([b"".join(first) + data], first + [data])[: 1 if not first or name == "half a request" else 2]:
                before = len(lines())
                got, took = raw_exchange(url, pieces, pause=0.1 if len(pieces) > 1 else 0)
                check(f"{after}{name}: refused", got.count(b" 200 OK") == good and took is not None, (got[-200:], took))
                logged(f"{after}{name}", before, 408 if good and name == "half a request" else 400)
    for name, text, want in [("two lengths", head.encode() + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello", 400), ("a negative length", head.encode() + b"Content-Length: -5\r\n\r\n", 400)]:
        before = len(lines())
        got, took = raw_exchange(url, text)
        check(f"{name}: refused", b" 200 " not in got and took is not None, (got[:200], took))
        logged(name, before, want)
    before = len(lines())
    u = urllib.parse.urlsplit(url)
    with socket.create_connection((u.hostname, u.port)) as s:
        for _ in range(3):
            s.sendall(health + b"\r\n\r\n")
            check("an empty line between requests is no attack", b" 200 OK" in s.recv(65536))
            time.sleep(0.05)
    time.sleep(0.2)
    check("a connection that is kept and closed is no refusal", not [x for x in lines()[before:] if x[1] != 200], lines()[before:])
    for name, want, pieces in [("headers a byte at a time", 400, [head[i:i + 1].encode() for i in range(60)]),
                               ("a body a byte at a time", 408, [head.encode() + b"Content-Length: 4000\r\n\r\n"] + [b" "] * 60),
                               ("headers a byte at a time, behind a request", 408, [health + b"\r\n"] + [head[i:i + 1].encode() for i in range(60)])]:
        before = len(lines())
        got, took = raw_exchange(url, pieces, pause=read_s / 8)
        check(f"{name}: closed", took is not None and took < 4 * read_s + 4, took)
        logged(name, before, want)
    idle = [socket.create_connection((u.hostname, u.port)) for _ in range(60)]
    time.sleep(read_s + 1)
    alive("60 idle connections later")
    [s.close() for s in idle]
    status, answer, _ = ask(url, "/v1/risk", RISK, key)
    check("and still answers", status == 200, answer)


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


def one(url, key):
    print(json.dumps(ask(url, "/v1/risk", RISK, key)[1]), json.dumps(ask(url, "/v1/score", {"patient": PATIENT}, key)[1]))


def shadowed(url, key):
    """Every line of /metrics has its form and its HELP; no label's values come from requests."""
    import re
    text = ask(url, "/metrics", None, key)[1]
    helped, labels, bad = set(), set(), []
    for line in text.splitlines():
        if line.startswith("# "):
            helped.add(line.split()[2])
            continue
        m = re.fullmatch(r'(ehr_[a-z_]+)(\{(?:[a-z]+="[^"\n]*",?)+\})? (-?[0-9.eE+-]+|NaN|\+Inf)', line)
        if not m or not (m[1] in helped or re.sub("_(bucket|sum|count)$", "", m[1]) in helped):
            bad.append(line)
        else:
            labels.add((m[1], m[2]))
    assert not bad, bad
    assert len(labels) < 400, len(labels)
    assert any(n == "ehr_second_info" for n, _ in labels)


def second(url, key, same_weights):
    """Completions and embeddings are compared with a second checkpoint: of the same weights, or of others."""
    def now():
        return {n: gauge(url, key, "second_" + n) for n in ("tokens_total", "tokens_alike_total", "weighed_tokens_total", "logprob_difference_sum", "completions_total",
                                                            "embedding_distance_count", "embedding_distance_sum", "offered_total", "dropped_total", "failed_total")}

    before = now()
    prompt, tokens = {"prompt": "SEX//F RACE//WHITE ICD10CM//I50.9", "n": 2, "max_tokens": 30}, 0
    for extra in ({}, {"logprobs": 0}, {"seed": 9, "temperature": 0}, {"seed": 7, "temperature": 1.5, "top_k": 40}, {"prompt": [prompt["prompt"], "SEX//M RACE//WHITE"]}):
        answer = ask(url, "/v1/completions", {**prompt, **extra}, key)[1]
        tokens += sum(len(c["token_ids"]) for c in answer["choices"][:2])
    list(pieces(connection(url, "/v1/completions", {**prompt, "stream": True}, key).getresponse()))
    for body in ({"input": prompt["prompt"]}, {"input": [prompt["prompt"], "SEX//M RACE//WHITE"], "pooling": "mean"}):
        ask(url, "/v1/embeddings", body, key)
    until, got = time.time() + 20, {}
    while time.time() < until and got.get("completions_total", 0) / 2 + got.get("embedding_distance_count", 0) + got.get("dropped_total", 0) < 8:
        time.sleep(0.1)
        after = now()
        got = {n: after[n] - before[n] for n in after}
    check("it is offered six completions and two embeddings, and has time for them", got["offered_total"] == 8 and got["completions_total"] == 12 and got["embedding_distance_count"] == 2, got)
    check("the tokens told are followed; at temperature 1 they are weighed", got["tokens_total"] > tokens and 0 < got["weighed_tokens_total"] < got["tokens_total"] and not got["failed_total"], (tokens, got))
    share = got["tokens_alike_total"] / got["tokens_total"]
    if same_weights == "same":
        check("the same weights draw the same tokens, find them as likely, and put patients in the same place", share == 1 and got["logprob_difference_sum"] == 0 and got["embedding_distance_sum"] < 1e-5, got)
    else:
        check("others draw others, find what was told less likely, and put patients elsewhere", 0.05 < share < 0.98 and got["logprob_difference_sum"] > 0 and got["embedding_distance_sum"] > 1e-3, got)


def maps(url, key, file):
    import math
    m = json.load(open(file))["outcomes"][0]
    named = {"name": "admission_1y", "codes": ["VISIT//IN"]}

    def outcome(**change):
        estimator = change.pop("estimator", "mc")
        return ask(url, "/v1/risk", {**RISK, "samples": 16, "estimator": estimator, "outcomes": [{**named, **change}]}, key)[1]["outcomes"][0]

    o = outcome()
    mapped = [1 / (1 + math.exp(-(m["intercept"] + m["slope"] * math.log(p / (1 - p))))) for p in [o["risk"], *o["interval"]]]
    got = o["recalibrated"] or {}
    check("a risk comes raw and recalibrated, with the map's id", got and got["map"] == m["sha256"] and all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(
          mapped, [got["risk"], *got["interval"]])) and got["alert"] == (got["risk"] >= m["threshold"]), o)
    for name, change, why in [("another horizon", {"horizon": "30d"}, "horizon"), ("other codes", {"codes": ["VISIT//OUT"]}, "codes"), ("stops", {"stops": ["VISIT//OUT"]}, "codes"),
                              ("another name", {"name": "x"}, "name"), ("another estimator", {"estimator": "reach"}, "estimator")]:
        o = outcome(**change)
        check(f"{name}: no map, and why", o["recalibrated"] is None and why in o["not_recalibrated"], o)
    a = ask(url, "/v1/risk", {**RISK, "outcomes": [named], "explain": True}, key)[1]
    o = a["outcomes"][0]
    check("a risk has all that a reader must know", {"id", "sha256", "stage"} <= set(a["model"]) and {"reason", "reasons", "estimator", "samples", "seed", "patient", "notice"} <= set(a) and
          {"risk", "recalibrated", "mc_se", "interval", "horizon_days", "explanation", "codes", "competing_risk"} <= set(o) and len(o["explanation"]["events"]) == 2, a)


def once(url):
    got = [ask(url, "/v1/risk", RISK, name=name)[0] for name in (None, "a", "a", "b")]
    check("without a name, with one, again, with another: 400, 200, 409, 200", got == [400, 200, 409, 200], got)


def burst(url, key, n, samples, answers=None):
    """Prints "COUNT STATUS" lines and "retry N": how many refusals said when to come back.  Appends the SHA-256 of every
    answer 200 to the file ANSWERS."""
    statuses, retry, lock = {}, [0], threading.Lock()

    def one(i):
        try:
            status, text, headers = ask_bytes(url, "/v1/risk", {**RISK, "samples": samples, "seed": i}, key, timeout=120)
        except OSError as e:
            status, headers = type(e).__name__, {}
        except http.client.HTTPException as e:
            status, headers = type(e).__name__, {}
        with lock:
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200 and answers:
                with open(answers, "a") as f:
                    print(hashlib.sha256(text).hexdigest(), file=f)
            retry[0] += status == 429 and int(headers.get("Retry-After", 0)) >= 1

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for status, count in sorted(statuses.items(), key=str):
        print(count, status)
    print("retry", retry[0])


if __name__ == "__main__":
    command, args = sys.argv[1], sys.argv[2:]
    if command == "same":
        same(args[0], args[1], args[2], args[3], args[4], json.loads(args[5]), args[6:])
    elif command == "answers":
        answers(*args)
    elif command in ("one", "shadowed", "maps", "notes", "second", "once"):
        {"one": one, "shadowed": shadowed, "maps": maps, "notes": notes, "second": second, "once": once}[command](*args)
    elif command == "rows":
        rows(args[0], args[1], args[2], json.loads(args[3]), args[4], int(args[5]), int(args[6]))
    elif command in ("streams", "openai"):
        {"streams": streams, "openai": openai}[command](*args)
    elif command == "attacks":
        attacks(args[0], args[1], args[2], float(args[3]), args[4])
    else:
        burst(args[0], args[1], int(args[2]), int(args[3]), *args[4:])
    sys.exit(failed)
