"""What the clients of a running `ehr-infer serve` share: asking, a record, a question about it."""
import http.client, json, pathlib, sys, time, urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
from checks import check, finish  # noqa: E402, F401


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


PATIENT = {"events": [{"code": "SEX//F"}, {"code": "RACE//WHITE"}, {"code": "MEDS_BIRTH", "time": "1950-02-03"},
                      {"code": "ICD10CM//I50.9", "time": "2024-01-01"}, {"code": "LOINC//4548-4", "time": "2024-01-01T08:00", "value": 7.2, "unit": "%"}]}
RISK = {"patient": PATIENT, "outcomes": ["VISIT//IN", {"codes": ["MEDS_DEATH"], "horizon": "5y"}], "horizon": "365d", "samples": 4}
