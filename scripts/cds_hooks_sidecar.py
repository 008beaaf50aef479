"""cds_hooks_sidecar.py - a CDS Hooks 2.0 service and FHIR R4 RiskAssessment writer over the /v1/risk of `ehr-infer serve`.

  GET  /cds-services                 what it offers (--services FILE)
  POST /cds-services/{id}            a hook with its prefetch -> cards; each suggests a RiskAssessment
  POST /cds-services/{id}/feedback   what people did with cards -> metrics
  GET  /metrics /health              Prometheus; whether the model's server is there

FHIR stays out of the model's process: the prefetched resources go through `ehr-data import fhir`, so that a bedside record
becomes the very events that training records became, and on to /v1/risk as raw events.  Nothing of a patient is kept: the
import runs in a folder in memory that is gone when the answer is, and metrics know outcomes of cards, not whose they were.

Research use; not a medical device.  Every card says so.
"""
import argparse, collections, datetime, json, logging, os, re, subprocess, sys, tempfile, threading, urllib.error, urllib.request, uuid
import flask, h5py, jwt, numpy as np, prometheus_client as prom, waitress, werkzeug.exceptions

NOTICE = "Research use; not a medical device. An estimate of a model, to be checked by a person against the record."
KINDS = ("static", "birth", "visit_start", "transfer", "lab", "diagnosis", "procedure", "drug", "other", "visit_end", "death")
SYSTEMS = {"http://loinc.org": "LOINC", "http://snomed.info/sct": "SNOMED", "http://hl7.org/fhir/sid/icd-10-cm": "ICD10CM",
           "http://www.nlm.nih.gov/research/umls/rxnorm": "RXNORM"}
PREFETCH = {"patient": "Patient/{{context.patientId}}",
            "encounters": "Encounter?patient={{context.patientId}}",
            "conditions": "Condition?patient={{context.patientId}}",
            "observations": "Observation?patient={{context.patientId}}",
            "procedures": "Procedure?patient={{context.patientId}}",
            "medications": "MedicationRequest?patient={{context.patientId}}"}
OVERRIDES = {"known": "Already known", "disagree": "Does not fit the patient", "not-relevant": "Not relevant now"}
CARDS_KEPT = 10000  # whose feedback can be told apart from made-up identifiers


class Refused(Exception):
    """An answer other than cards: status and what to do about it."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


# ---- FHIR -> events -------------------------------------------------------------------------------------------------


def resources_of(prefetch):
    """Every resource in a prefetch, whether it came alone or in bundles."""
    found, todo = [], list(prefetch.values())
    while todo:
        r = todo.pop()
        if not isinstance(r, dict):
            continue
        if r.get("resourceType") == "Bundle":
            entries = r.get("entry") or []
            todo += [e.get("resource") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
        elif r.get("resourceType"):
            found.append(r)
    return found


def import_events(resources, ehr_data):
    """[{code, time, value, unit, kind}] of one patient, by `ehr-data import fhir`; times are when something was known."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ehr-cds-", dir=where) as folder:
        source, out = folder + "/prefetch.json", folder + "/events.h5"
        with open(source, "w") as f:
            json.dump({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}, f)
        run = subprocess.run([ehr_data, "import", "fhir", source, "--out", out, "--memory", "16M", "--quiet"],
                             capture_output=True, text=True, timeout=60)
        if run.returncode:
            raise Refused(422, "the prefetched resources could not be read: " + (run.stderr.strip().splitlines() or ["unknown"])[-1].replace(folder, ""))
        with h5py.File(out) as f:
            if len(f["subject_id"]) != 1:
                raise Refused(422, f"the prefetch holds {len(f['subject_id'])} patients, not one")
            codes, kinds, units = f["codes"][:], f["code_kind"][:], f["units"][:]
            limits = ("", "<", "<=", ">=", ">")  # Comparator of data/event.h
            events = []
            for code, at, value, comparator, unit in zip(f["code"][:], f["available"][:], f["numeric_value"][:], f["comparator"][:], f["unit"][:]):
                e = {"code": codes[code].decode().rstrip("\0"), "kind": KINDS[kinds[code]]}
                if at != np.iinfo(np.int64).min:
                    e["time"] = (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=int(at))).isoformat(timespec="seconds")
                if not np.isnan(value):
                    e["value"] = limits[comparator] + repr(float(value)) if comparator else float(value)
                    if units[unit]:
                        e["unit"] = units[unit].decode().rstrip("\0")
                events.append(e)
    return events


def index_of(events, now):
    """When the forecast begins: now, not at the last thing that happened, which may be years ago.  What has a date alone is told at
    that day's end, wherever on earth it ends last: that much later, so that what is in the record today counts; what is only planned does not."""
    latest = (now + datetime.timedelta(hours=36)).isoformat(timespec="seconds")
    last = max((e["time"] for e in events if "time" in e and e["time"] <= latest), default="")
    return max(now.isoformat(timespec="seconds"), last)


def references(resources):
    """code of the vocabulary -> references of the resources that carry it, for `basis`."""
    found = collections.defaultdict(list)
    for r in resources:
        concept = r.get("code") or r.get("medicationCodeableConcept")
        coding = concept.get("coding") if isinstance(concept, dict) else None
        for c in coding if isinstance(coding, list) else []:
            if isinstance(c, dict) and isinstance(c.get("system"), str) and c["system"] in SYSTEMS and isinstance(r.get("id"), str):
                found[f"{SYSTEMS[c['system']]}//{c.get('code')}"].append(f"{r['resourceType']}/{r['id']}")
    return found


# ---- /v1/risk -> cards ----------------------------------------------------------------------------------------------


def days_of(horizon):
    """As the server reads it; not "6m", which is months to some and minutes to others."""
    told = re.fullmatch(r"(\d+)(min|h|d|w|y)", horizon) if isinstance(horizon, str) else None
    if not told:
        raise ValueError(f"horizon {horizon!r}: expected a number of min, h, d, w or y, such as 30d; of months say the days")
    return int(told[1]) * {"min": 1 / 1440, "h": 1 / 24, "d": 1, "w": 7, "y": 365.25}[told[2]]


def horizon_text(horizon):
    for unit, name in (("min", "minutes"), ("h", "hours")):
        if horizon.endswith(unit):
            return f"{horizon.removesuffix(unit)} {name}"
    return f"{days_of(horizon):.0f} days"


def percent(x):
    return f"{100 * x:.1f}%" if x < 0.0995 else f"{100 * x:.0f}%"


def risk_assessment(service, answer, resources, subject, encounter, index):
    o, now = answer["outcomes"][0], datetime.datetime.now(datetime.timezone.utc)
    start = datetime.datetime.fromisoformat(index).replace(tzinfo=datetime.timezone.utc)
    sure = o.get("recalibrated") or {}
    if str(sure.get("fitted", "")).startswith("nothing"):  # too few patients to fit a map on: it changes nothing
        sure = {}
    by_code, basis = references(resources), []
    for e in (o.get("explanation") or {}).get("events", []):
        for reference in by_code.get(e["code"].split("=")[0], [])[:1]:
            if {"reference": reference} not in basis:
                basis.append({"reference": reference})
    how = f"{answer['samples']} simulated futures ({answer['estimator']}), sampling interval {percent(o['interval'][0])} to {percent(o['interval'][1])}"
    if sure:
        how += f"; raw risk {percent(o['risk'])}, recalibrated by map {sure.get('map', sure.get('id'))}"
    out = {"resourceType": "RiskAssessment", "status": "preliminary", "subject": {"reference": subject}, "occurrenceDateTime": now.isoformat(timespec="seconds"),
           "method": {"text": f"ehr.c {answer['model']['id']} (SHA-256 of the weights {answer['model']['sha256']}), stage {answer['model']['stage']}"},
           "code": {"text": service["title"]},
           "prediction": [{"outcome": {"text": o["name"]}, "probabilityDecimal": round(sure.get("risk", o["risk"]), 6), "rationale": how,
                           "whenPeriod": {"start": start.isoformat(timespec="seconds"),
                                          "end": (start + datetime.timedelta(days=days_of(service["horizon"]))).isoformat(timespec="seconds")}}],
           "note": [{"text": NOTICE}]}
    if encounter:
        out["encounter"] = {"reference": encounter}
    if basis:
        out["basis"] = basis[:10]
    return out


def moved_text(explanation):
    lines = []
    for e in (explanation or {}).get("events", [])[:5]:
        if e["change"] is not None:
            lines.append(f"- {e['name'] or e['code']}, {abs(e['days']):.0f} days ago: {'raises' if e['change'] > 0 else 'lowers'} it by {100 * abs(e['change']):.1f} points"
                         + ("" if e["se"] is not None and abs(e["change"]) > 3 * e["se"] else " (within sampling noise)"))  # the largest of many pass 2
    return "\n\nWhat moved it (an association in the model, never a cause):\n\n" + "\n".join(lines) if lines else ""


def unknown_text(o):
    """Another site's names for the outcome do no harm; a misspelt one does, and looks the same."""
    return f" Of the outcome's codes the model does not know {', '.join(o['unknown_codes'])}, and counts none of it." if o.get("unknown_codes") else ""


def card_of(service, answer, assessment):
    o = answer["outcomes"][0]
    risk = assessment["prediction"][0]["probabilityDecimal"] if assessment else None
    card = {"uuid": str(uuid.uuid4()), "indicator": "info", "source": {"label": f"ehr.c {answer['model']['id']} ({answer['model']['stage']})"},
            "overrideReasons": [{"code": c, "display": d, "system": "urn:ehr.c:override"} for c, d in OVERRIDES.items()]}
    if not assessment:
        card["summary"] = f"No forecast of {o['name']}: {', '.join(answer['reasons'])}"[:139]
        card["detail"] = f"The record does not support one: {', '.join(answer['reasons'])}.\n\n{NOTICE}"
        return card
    card["summary"] = f"{percent(risk)} risk of {o['name']} within {horizon_text(service['horizon'])}, by a research model"[:139]
    card["detail"] = (f"Estimated risk of **{o['name']}** within {horizon_text(service['horizon'])}: **{percent(risk)}**. {assessment['prediction'][0]['rationale']}."
                      + unknown_text(o) + moved_text(o.get("explanation")) + f"\n\n{NOTICE}")
    card["suggestions"] = [{"label": "Record this risk assessment", "uuid": str(uuid.uuid4()),
                            "actions": [{"type": "create", "description": "Write a RiskAssessment (status preliminary)", "resource": assessment}]}]
    return card


# ---- the service ----------------------------------------------------------------------------------------------------


class Sidecar:
    def __init__(self, args):
        self.args, self.lock, self.cards = args, threading.Lock(), collections.OrderedDict()
        with open(args.services) as f:
            self.services = {s["id"]: s for s in json.load(f)["services"]}
        for s in self.services.values():
            days_of(s["horizon"])
        self.key = open(args.key_file).read().strip() if args.key_file else None
        self.jwks = jwt.PyJWKSet.from_dict(json.load(open(args.jwks))) if args.jwks else None
        self.seen = collections.OrderedDict()  # jti of tokens: each counts once
        r = self.registry = prom.CollectorRegistry()
        self.n_cards = prom.Counter("ehr_cds_cards", "cards returned", ["service", "kind"], registry=r)
        self.n_feedback = prom.Counter("ehr_cds_feedback", "what people did with cards", ["service", "outcome", "reason"], registry=r)
        self.n_refused = prom.Counter("ehr_cds_refused", "hooks answered by an error", ["service", "status"], registry=r)
        self.took = prom.Histogram("ehr_cds_seconds", "from hook to cards", ["service"], registry=r)

    def call(self, path, body=None, timeout=120):
        headers = {"Authorization": "Bearer " + self.key} if self.key else {}
        headers |= {"Idempotency-Key": str(uuid.uuid4())} if body else {}  # a copy of the request is refused
        request = urllib.request.Request(self.args.serve + path, json.dumps(body).encode() if body else None, headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as e:
            text = e.read(4096).decode(errors="replace")
            raise Refused(503 if e.code in (401, 403, 429) or e.code >= 500 else 422, f"the model's server answered {e.code}: {text}") from None
        except (OSError, ValueError) as e:
            raise Refused(503, f"the model's server at {self.args.serve} cannot be reached: {e}") from None

    def authenticate(self, header):
        """CDS Hooks' trust: a JWT of a client whose public key is in --jwks, for this audience, used once."""
        if not self.jwks:
            return
        try:
            token = header.split("Bearer ", 1)[1]
            head = jwt.get_unverified_header(token)
            key = next(k for k in self.jwks.keys if k.key_id == head.get("kid"))
            claims = jwt.decode(token, key.key, algorithms=["ES384", "RS384", "ES256", "RS256"], audience=self.args.audience,
                                options={"require": ["iss", "aud", "exp", "iat", "jti"]})
        except (IndexError, StopIteration, jwt.PyJWTError):
            raise Refused(401, "needs Authorization: Bearer with a JWT that a key of --jwks signed for this audience") from None
        with self.lock:
            if claims["jti"] in self.seen:
                raise Refused(401, "this JWT was used before")
            self.seen[claims["jti"]] = None
            while len(self.seen) > 100000:
                self.seen.popitem(last=False)

    def discovery(self):
        return {"services": [{"hook": s["hook"], "id": s["id"], "title": s["title"], "description": s["description"], "prefetch": s.get("prefetch", PREFETCH),
                              "usageRequirements": "All resources of the prefetch; the sidecar fetches none itself."} for s in self.services.values()]}

    def hook(self, service, body):
        context = body.get("context") if isinstance(body, dict) else None
        if not isinstance(context, dict) or body.get("hook") != service["hook"]:
            raise Refused(400, f"this service takes the hook {service['hook']} with its context")
        try:
            uuid.UUID(body["hookInstance"])
        except (KeyError, ValueError, TypeError, AttributeError):
            raise Refused(400, "hookInstance takes a UUID") from None
        resources = resources_of(body["prefetch"]) if isinstance(body.get("prefetch"), dict) else []
        patients = [r for r in resources if r["resourceType"] == "Patient"]
        if len(patients) != 1 or not isinstance(patients[0].get("id"), str) or patients[0]["id"] != context.get("patientId"):
            raise Refused(412, "the prefetch lacks the Patient that context.patientId names")
        events = import_events(resources, self.args.ehr_data)
        index = index_of(events, datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None))
        request = {"patient": {"events": events, "index": index}, "outcomes": [{**service["outcome"], "horizon": service["horizon"]}], "samples": service.get("samples", 128)}
        if service.get("explain"):
            request["explain"] = service["explain"]
        answer = self.call("/v1/risk", request)
        encounter = context.get("encounterId")
        assessment = None if answer["reason"] else risk_assessment(service, answer, resources, "Patient/" + patients[0]["id"],
                                                                   "Encounter/" + encounter if isinstance(encounter, str) else None, index)
        if assessment and assessment["prediction"][0]["probabilityDecimal"] < service.get("show_from", 0):
            self.n_cards.labels(service["id"], "below").inc()
            return {"cards": []}
        card = card_of(service, answer, assessment)
        with self.lock:
            self.cards[card["uuid"]] = service["id"]
            while len(self.cards) > CARDS_KEPT:
                self.cards.popitem(last=False)
        self.n_cards.labels(service["id"], "risk" if assessment else "abstained").inc()
        return {"cards": [card]}

    def feedback(self, service, body):
        entries = body.get("feedback") if isinstance(body, dict) else None
        if not isinstance(entries, list) or not entries or len(entries) > 100:
            raise Refused(400, "feedback takes a list of 1 to 100 entries")
        counted = []
        for e in entries:
            outcome = e.get("outcome") if isinstance(e, dict) else None
            with self.lock:
                known = isinstance(e, dict) and self.cards.get(e.get("card") if isinstance(e.get("card"), str) else None) == service["id"]
            if not known:
                raise Refused(404, "no card of this service has that identifier; nothing was counted")
            if outcome not in ("accepted", "overridden"):
                raise Refused(400, "outcome takes accepted or overridden")
            reason = e.get("overrideReason")
            for name in ("reason", "code"):
                reason = reason.get(name) if isinstance(reason, dict) else None
            known = isinstance(reason, str) and reason in OVERRIDES
            counted.append((outcome, reason if known else "other" if e.get("overrideReason") else ""))
        for outcome, reason in counted:  # labels are of our own making: their number is bounded
            self.n_feedback.labels(service["id"], outcome, reason).inc()
        return {}


def application(sidecar):
    app = flask.Flask("cds_hooks_sidecar")
    app.config["MAX_CONTENT_LENGTH"] = sidecar.args.max_body << 20

    def answer(name, work):
        service = sidecar.services.get(name)
        label = name if service else "none"
        try:
            if not service:
                raise Refused(404, "no service is called that; see /cds-services")
            sidecar.authenticate(flask.request.headers.get("Authorization", ""))
            return flask.jsonify(work(service, flask.request.get_json(force=True)))
        except Refused as e:
            sidecar.n_refused.labels(label, str(e.status)).inc()
            return flask.jsonify({"error": str(e)}), e.status
        except werkzeug.exceptions.HTTPException as e:  # no JSON, or too much of it
            sidecar.n_refused.labels(label, str(e.code)).inc()
            return flask.jsonify({"error": e.description}), e.code
        except subprocess.TimeoutExpired:
            sidecar.n_refused.labels(label, "422").inc()
            return flask.jsonify({"error": "the prefetched resources took too long to read"}), 422

    @app.get("/cds-services")
    def discovery():
        return flask.jsonify(sidecar.discovery())

    @app.post("/cds-services/<name>")
    def hook(name):
        with sidecar.took.labels(name if name in sidecar.services else "none").time():
            return answer(name, sidecar.hook)

    @app.post("/cds-services/<name>/feedback")
    def feedback(name):
        return answer(name, sidecar.feedback)

    @app.get("/metrics")
    def metrics():
        return flask.Response(prom.generate_latest(sidecar.registry), mimetype="text/plain")

    @app.get("/health")
    def health():
        try:
            return flask.jsonify(sidecar.call("/ready", timeout=5))
        except Refused as e:
            return flask.jsonify({"error": str(e)}), 503

    @app.after_request
    def no_store(reply):
        reply.headers["Cache-Control"] = "no-store"
        if sidecar.args.allow_origin:
            reply.headers["Access-Control-Allow-Origin"] = sidecar.args.allow_origin
            reply.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        return reply

    return app


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--serve", required=True, metavar="URL", help="where `ehr-infer serve` listens, such as http://127.0.0.1:8000")
    p.add_argument("--key-file", help="file with an API key of that server (scope risk)")
    p.add_argument("--services", default=here + "/cds_services.json", help="what is offered [%(default)s]")
    p.add_argument("--port", type=int, default=8088, help="port to listen on; 0 = any free one [%(default)s]")
    p.add_argument("--bind", default="127.0.0.1", help="address; beyond this machine only with --jwks [%(default)s]")
    p.add_argument("--jwks", help="JSON Web Key Set of the CDS clients that may call")
    p.add_argument("--audience", help="this service's base URL, as clients' tokens name it")
    p.add_argument("--allow-origin", help="an origin whose pages may call (CORS)")
    p.add_argument("--max-body", type=int, default=32, help="longest hook, MiB [%(default)s]")
    p.add_argument("--ehr-data", default=here + "/../build/ehr-data", help="the program that reads FHIR [%(default)s]")
    args = p.parse_args()
    if not (args.bind.startswith("127.") or args.bind == "::1") and not args.jwks:
        p.error(f"--bind {args.bind}: beyond this machine only with --jwks, or anybody may ask")
    if args.jwks and not args.audience:
        p.error("--jwks needs --audience: the URL that clients' tokens must be made for")
    if not os.access(args.ehr_data, os.X_OK):
        p.error(f"--ehr-data {args.ehr_data}: no such program; build it with make")
    try:
        sidecar = Sidecar(args)
    except (OSError, ValueError, KeyError, AttributeError, jwt.PyJWTError) as e:
        p.error(f"cannot read what was named: {e!r}")
    logging.getLogger("waitress").setLevel(logging.ERROR)
    server = waitress.create_server(application(sidecar), host=args.bind, port=args.port, threads=8)
    print(f"listening on http://{args.bind}:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
