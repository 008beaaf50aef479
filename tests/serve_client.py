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
import hashlib, http.client, json, socket, sys, threading, time

from serve_ask import PATIENT, RISK, ask, ask_bytes, check, connection, finish, gauge, idle, pieces
from serve_attacks import attacks
from serve_same import notes, rows, same
from serve_second import maps, second, shadowed


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
    dead = {"events": PATIENT["events"] + [{"code": "MEDS_DEATH", "time": "2024-01-03"}]}
    d = good("a record that ends in death", 200, {**RISK, "patient": dead})
    check("nobody is there to be forecast", d["reason"] & 8 and any("died" in w for w in d["reasons"]) and not a["reason"] & 8, d)
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
    some = good("an outcome of which one code is no token", 200, {**RISK, "outcomes": [{"codes": ["VISIT//IP", "VISIT//IN", "ICD10CM//I50000"]}, "VISIT//IN"]})["outcomes"]
    check("the codes that no token has are told", [o["unknown_codes"] for o in some] == [["VISIT//IP", "ICD10CM//I50000"], []], some)
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
    check("metrics count answers of the dead", 'ehr_abstain_total{reason="dead"} 1\n' in text, text)
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


def one(url, key):
    print(json.dumps(ask(url, "/v1/risk", RISK, key)[1]), json.dumps(ask(url, "/v1/score", {"patient": PATIENT}, key)[1]))


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
    finish()
