"""A second checkpoint beside the one that answers, recalibration maps, and the form of /metrics."""
import json, time

from serve_ask import RISK, ask, check, connection, gauge, pieces


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
