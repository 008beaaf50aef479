"""Asks a running `ehr-infer serve` as many clients at once do, and says what came of it.

    serve_load.py URL KEY REQUESTS [--clients 64] [--pid PID] [--samples 32] [--only KIND] [--seed 1] [--answers FILE]

REQUESTS mixed requests in all: of 20, 11 risks (of two outcomes, `samples` futures for each), 4 completions (1 of them streamed), 3 scores, 2
embeddings.  Each client asks again as soon as it is answered; who is refused with 429 waits as long as Retry-After says,
at most a second.  Prints errors that are no 429, latencies by kind, and with --pid the server's memory and CPU time.
Exits 1 when a request got neither its answer nor a 429."""
import argparse, collections, hashlib, http.client, json, os, random, sys, threading, time, urllib.parse

CODES = ["ICD10CM//I50.9", "ICD10CM//E11.9", "VISIT//OUT", "VISIT//IN", "LOINC//4548-4"]
KINDS = ["risk"] * 11 + ["completion"] * 3 + ["stream"] + ["score"] * 3 + ["embedding"] * 2


def patient(r):
    events = [{"code": "SEX//" + r.choice("MF")}, {"code": "RACE//WHITE"}, {"code": "MEDS_BIRTH", "time": f"19{r.randint(30, 90)}-02-03"}]
    day = 0
    for _ in range(r.randint(1, 60)):
        day += r.randint(0, 90)
        e = {"code": r.choice(CODES), "minutes": 20000 * 1440 + day * 1440}
        if e["code"].startswith("LOINC"):
            e.update(value=round(r.uniform(4, 12), 1), unit="%")
        events.append(e)
    for e in events:
        if "time" in e:
            e["minutes"] = (int(e.pop("time")[:4]) - 1970) * 525960
    return {"events": events, "key": r.getrandbits(40)}


def request(kind, r, samples):
    p = patient(r)
    if kind == "risk":
        return "/v1/risk", {"patient": p, "outcomes": ["VISIT//IN", "MEDS_DEATH"], "horizon": "365d", "samples": samples, "estimator": r.choice(["mc", "scope"])}
    if kind in ("completion", "stream"):
        return "/v1/completions", {"patient": p, "max_tokens": 64, "n": r.randint(1, 4), "seed": r.randint(0, 99), "stream": kind == "stream"}
    return ("/v1/score", {"patient": p}) if kind == "score" else ("/v1/embeddings", {"patient": p})


def memory(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS"))


def cpu(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    def __init__(self, a):
        self.a, self.next, self.lock = a, 0, threading.Lock()
        self.took, self.status, self.bad = collections.defaultdict(list), collections.Counter(), []
        self.rss = []

    def one(self, i):
        r = random.Random(self.a.seed * 1000003 + i)
        kind = self.a.only or r.choice(KINDS)
        path, body = request(kind, r, self.a.samples)
        data, u = json.dumps(body).encode(), urllib.parse.urlsplit(self.a.url)
        while True:
            start = time.time()
            c = http.client.HTTPConnection(u.hostname, u.port, timeout=600)
            try:
                c.request("POST", path, data, {"Authorization": "Bearer " + self.a.key})
                answer = c.getresponse()
                text = answer.read()
                status = answer.status
                if status == 200 and kind == "stream" and not text.endswith(b"data: [DONE]\n\n"):
                    status = "a stream without its end"
            except (OSError, http.client.HTTPException) as e:
                status, text, answer = type(e).__name__, str(e).encode(), None
            c.close()
            with self.lock:
                self.status[status] += 1
                if status == 200 and self.a.answers:
                    with open(self.a.answers, "a") as f:
                        print(hashlib.sha256(text).hexdigest(), file=f)
                if status == 200:
                    self.took[kind].append(time.time() - start)
                elif status != 429:
                    self.bad.append((kind, status, text[:200]))
            if status != 429:
                return
            time.sleep(min(1, float(answer.getheader("Retry-After", "1"))))

    def client(self):
        while True:
            with self.lock:
                i, self.next = self.next, self.next + 1
                if self.a.pid and i % max(1, self.a.requests // 20) == 0 and i <= self.a.requests:
                    self.rss.append(memory(self.a.pid))
            if i >= self.a.requests:
                return
            self.one(i)

    def run(self):
        start, spent = time.time(), cpu(self.a.pid) if self.a.pid else 0
        threads = [threading.Thread(target=self.client) for _ in range(self.a.clients)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        took = time.time() - start
        print(f"{self.a.requests} requests by {self.a.clients} clients in {took:.1f} s: " + ", ".join(f"{n} {s}" for s, n in self.status.items()))
        for kind, t in sorted(self.took.items()):
            t.sort()
            print(f"  {kind:10} {len(t):6} p50 {t[len(t) // 2]:.3f} s  p99 {t[min(len(t) - 1, int(0.99 * len(t)))]:.3f} s")
        for b in self.bad[:5]:
            print("  error:", *b)
        if self.a.pid:
            third = max(1, len(self.rss) // 3)
            warm, end = max(self.rss[third : 2 * third] or self.rss), max(self.rss[2 * third :] or self.rss)
            print(f"  memory {self.rss[0]:.1f} MiB at first, {warm:.1f} in the middle third, {end:.1f} in the last; CPU {cpu(self.a.pid) - spent:.2f} s")
            print(f"growth {end / warm:.4f}")
        return 1 if self.bad else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("requests", type=int)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--pid", type=int, help="the server's process")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--only", choices=sorted(set(KINDS)))
    parser.add_argument("--answers", help="file to append the SHA-256 of every answer 200 to")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(Load(parser.parse_args()).run())
