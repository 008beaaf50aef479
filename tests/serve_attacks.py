"""What no client should send: each is refused, and in the audit log."""
import http.client, json, socket, time, urllib.parse

from serve_ask import RISK, ask, check


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
