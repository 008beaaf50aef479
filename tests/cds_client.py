"""cds_client.py BASE SERVE KEY [JWT_KEY AUDIENCE] - a CDS client against scripts/cds_hooks_sidecar.py: discovery, hooks, cards, the
RiskAssessment they suggest, feedback, metrics, and what is refused.  Prints a line a check; exit 1 if any failed."""
import datetime, json, re, sys, time, urllib.error, urllib.request, uuid

from serve_ask import check, finish

base, serve, key = sys.argv[1:4]
jwt_key, audience = (sys.argv[4:] + ["", ""])[:2]


def token(**changes):
    import jwt
    claims = {"iss": "https://ehr.example", "aud": audience, "iat": int(time.time()), "exp": int(time.time()) + 300, "jti": str(uuid.uuid4()), **changes}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, open(jwt_key).read(), algorithm="ES384", headers={"kid": "test"})


def ask(url, body=None, bearer=None, raw=None):
    headers = {"Content-Type": "application/json"}
    if bearer or (jwt_key and bearer is None and body is not None):
        headers["Authorization"] = "Bearer " + (bearer or token())
    try:
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as r:
            text = r.read()
            return r.status, json.loads(text) if "json" in r.headers.get("Content-Type", "") else text.decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(errors="replace")


def coded(kind, i, system, code, **more):
    return {"resourceType": kind, "id": f"{kind.lower()}-{i}", "subject": {"reference": "Patient/p1"}, "code": {"coding": [{"system": system, "code": code}]}, **more}


ICD, LOINC, OMB = "http://hl7.org/fhir/sid/icd-10-cm", "http://loinc.org", "urn:oid:2.16.840.1.113883.6.238"
PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1950-02-03", "name": [{"family": "Zebrafinch", "given": ["Quillon"]}],
           "extension": [{"url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-race", "extension": [
               {"url": "ombCategory", "valueCoding": {"system": OMB, "code": "2106-3", "display": "White"}}]}]}
CONDITIONS = [coded("Condition", i, ICD, c, recordedDate=f"20{10 + i}-05-01T10:00:00Z") for i, c in enumerate(("I10", "E11.9", "I50.9", "N18.30", "J44.9"))]
LABS = [coded("Observation", i, LOINC, "2160-0", status="final", effectiveDateTime=f"20{10 + i}-05-02T10:00:00Z", issued=f"20{10 + i}-05-02T12:00:00Z",
              valueQuantity={"value": 0.9 + i / 10, "unit": "mg/dL", "code": "mg/dL", "system": "http://unitsofmeasure.org"}) for i in range(8)]


def bundle(list_):
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": r} for r in list_]}


def hook(**changes):
    h = {"hook": "patient-view", "hookInstance": str(uuid.uuid4()), "context": {"userId": "Practitioner/1", "patientId": "p1", "encounterId": "e9"},
         "prefetch": {"patient": PATIENT, "conditions": bundle(CONDITIONS), "observations": bundle(LABS), "procedures": None}}
    return {k: v for k, v in {**h, **changes}.items() if v is not None}


url = base + "/cds-services/admission-1y"
status, found = ask(base + "/cds-services")
check("discovery tells services and their prefetch", status == 200 and found["services"][0]["id"] == "admission-1y" and
      found["services"][0]["prefetch"]["patient"] == "Patient/{{context.patientId}}" and found["services"][0]["hook"] == "patient-view", found)
status, answer = ask(url, hook())
card = answer["cards"][0] if status == 200 else {}
check("a hook gets one card", status == 200 and len(answer["cards"]) == 1 and len(card["summary"]) < 140 and card["indicator"] == "info" and card["uuid"] and
      card["source"]["label"].startswith("ehr.c"), (status, answer))
check("the card tells which codes of the outcome the model does not know", "VISIT//IP" in card.get("detail", "") and "does not know" in card["detail"], card)
check("the card says what it is not", "not a medical device" in card.get("detail", ""), card)
check("and names nobody", "Zebrafinch" not in json.dumps(card) and "1950" not in json.dumps(card), card)
assessment = card["suggestions"][0]["actions"][0]["resource"] if card else {}
prediction = assessment.get("prediction", [{}])[0]
check("it suggests a RiskAssessment of this patient", assessment.get("resourceType") == "RiskAssessment" and assessment["status"] == "preliminary" and
      assessment["subject"] == {"reference": "Patient/p1"} and assessment["encounter"] == {"reference": "Encounter/e9"} and
      0 < prediction["probabilityDecimal"] < 1 and prediction["whenPeriod"]["start"] < prediction["whenPeriod"]["end"], assessment)
check("whose basis are resources that were given", assessment.get("basis") and all(
      b["reference"].split("/")[1] in {r["id"] for r in CONDITIONS + LABS} for b in assessment["basis"]), assessment.get("basis"))
# The same record told to the model's server by hand gives the same number.
events = ([{"code": "SEX//F"}, {"code": "RACE//WHITE"}, {"code": "MEDS_BIRTH", "time": "1950-02-03"}] +
          [{"code": "ICD10CM//" + r["code"]["coding"][0]["code"], "time": r["recordedDate"][:19]} for r in CONDITIONS] +
          [{"code": "LOINC//2160-0", "time": r["issued"][:19], "value": r["valueQuantity"]["value"], "unit": "mg/dL"} for r in LABS])


def by_hand(prediction):
    patient = {"events": events, "index": prediction["whenPeriod"]["start"][:19]}
    request = urllib.request.Request(serve + "/v1/risk", json.dumps({"patient": patient, "samples": 16, "outcomes": [{"codes": ["VISIT//IN"], "horizon": "365d"}]}).encode(),
                                     {"Authorization": "Bearer " + key})
    return json.load(urllib.request.urlopen(request, timeout=120))["outcomes"][0]["risk"]


start = datetime.datetime.fromisoformat(prediction["whenPeriod"]["start"])
check("that begins now, though the record ended in 2017", abs((datetime.datetime.now(datetime.timezone.utc) - start).total_seconds()) < 120, prediction)
want = by_hand(prediction)
check("with the risk that the model's server gives the same events at that time", abs(want - prediction.get("probabilityDecimal", 9)) < 1e-5, (want, prediction))

status, answer = ask(url, hook(prefetch={"patient": PATIENT, "conditions": bundle(CONDITIONS[:1])}))
check("of too short a record there is no forecast, and why", status == 200 and "short" in answer["cards"][0]["summary"] and "suggestions" not in answer["cards"][0], answer)
status, answer = ask(url, hook(prefetch={"patient": {**PATIENT, "deceasedDateTime": "2018-03-04T10:00:00Z"}, "conditions": bundle(CONDITIONS), "observations": bundle(LABS)}))
check("of who has died there is no forecast", status == 200 and "died" in answer["cards"][0]["summary"] and "suggestions" not in answer["cards"][0], answer)
for name, want, body in [
    ("a hook of another kind", 400, hook(hook="order-sign")), ("no context", 400, hook(context=None)), ("an instance that is no UUID", 400, hook(hookInstance="7")),
    ("no prefetch", 412, hook(prefetch=None)), ("a prefetch without the patient", 412, hook(prefetch={"conditions": bundle(CONDITIONS)})),
    ("another patient's prefetch", 412, hook(context={"patientId": "p2"})), ("two patients", 412, hook(prefetch={"a": PATIENT, "b": {**PATIENT, "id": "p2"}})),
    ("a list", 400, [1]),
]:
    status, answer = ask(url, body)
    check(f"{name}: {want}", status == want, (status, answer))
status, answer = ask(url, hook(prefetch={"patient": PATIENT, "observations": bundle(LABS), "conditions": bundle(
    [*CONDITIONS, *({**c, "id": c["id"] + "x", "recordedDate": "2019-01-01", "subject": {"reference": "Patient/p7"}} for c in CONDITIONS)])}))
again = answer["cards"][0]["suggestions"][0]["actions"][0]["resource"]["prediction"][0] if status == 200 else {}
check("another patient's resources among them count for nothing", again and abs(by_hand(again) - again["probabilityDecimal"]) < 1e-5, (status, answer))
status, answer = ask(url, hook(prefetch={"patient": PATIENT, "observations": bundle(LABS), "conditions": bundle(
    [*CONDITIONS, *({"resourceType": "Condition", "id": f"odd{i}", "code": {"coding": c}} for i, c in enumerate([7, [{"system": ["x"]}], [7]]))])}))
check("codings that are none carry no basis and stop nothing", status == 200 and answer["cards"], (status, answer))
status, answer = ask(url, raw=b"{", bearer=token() if jwt_key else None)
check("no JSON: 400, in JSON", status == 400 and answer.startswith('{"error"'), (status, answer))
check("no such service: 404", ask(base + "/cds-services/none", hook())[0] == 404)
check("a hook too long: 413", ask(url, raw=b" " * (3 << 20), bearer=token() if jwt_key else None)[0] == 413)

status, answer = ask(url + "/feedback", {"feedback": [{"card": card.get("uuid"), "outcome": "accepted", "acceptedSuggestions": [], "outcomeTimestamp": "2026-01-01T00:00:00Z"},
                                                      {"card": card.get("uuid"), "outcome": "overridden", "overrideReason": {"reason": {"code": "known"}}},
                                                      {"card": card.get("uuid"), "outcome": "overridden", "overrideReason": {"userComment": "Quillon"}}]})
odd = [{"card": card.get("uuid"), "outcome": "overridden", "overrideReason": r} for r in ({"reason": "x"}, {"reason": {"code": ["x"]}}, [1])]
check("feedback is taken", status == 200, (status, answer))
check("reasons of another form are others", ask(url + "/feedback", {"feedback": odd})[0] == 200)
for name, want, entry in [("of a card nobody got", 404, {"card": str(uuid.uuid4()), "outcome": "accepted"}), ("that is neither", 400, {"card": card.get("uuid"), "outcome": "maybe"}),
                          ("of a list for a card", 404, {"card": ["x"], "outcome": "accepted"})]:
    check(f"feedback {name}: {want}", ask(url + "/feedback", {"feedback": [entry]})[0] == want)
status, text = ask(base + "/metrics")
check("metrics count cards and what became of them", 'ehr_cds_cards_total{kind="risk",service="admission-1y"}' in text and
      all(re.search(r'ehr_cds_feedback_total\{outcome="%s",reason="%s",service="admission-1y"\} 1\.0' % x, text) for x in
          (("accepted", ""), ("overridden", "known"))) and re.search(r'outcome="overridden",reason="other",service="admission-1y"\} 4\.0', text) and "Quillon" not in text, text)
check("it knows whether the model's server is there", ask(base + "/health")[0] == 200)
if jwt_key:
    once = token()
    check("a JWT counts", ask(url, hook(), once)[0] == 200)
    check("but once", ask(url, hook(), once)[0] == 401)
    for name, bad in [("none", "x"), ("of another audience", token(aud="https://elsewhere.example")), ("that has expired", token(exp=int(time.time()) - 10)), ("without jti", token(jti=None)),
                      ("with a signature changed", token()[:-8] + "AAAAAAAA")]:
        check(f"a JWT {name}: 401", ask(url, hook(), bad)[0] == 401)
finish()
