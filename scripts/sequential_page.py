"""The section of report.html on sequential diagnosis."""

import html

import report_parts
from report_parts import interval, number, table

COLOURS = {"model": "#08519c", "usual": "#d94801", "ceiling": "#cb181d"}


def _points(curve, x, y):
    return [p[x] for p in curve], [p[y]["mean"] for p in curve]


def draw_curve(s, x, label):
    """Share of right names against what was spent until the name was given."""
    figure, ax = report_parts.axes("Right diagnoses against " + label.split(",")[0], label, "share of encounters named right", 6.2, 4.2)
    truth = "ceiling" in s
    y = "truly_right" if truth else "right"
    ax.plot(*_points(s["curve"], x, y), "o-", ms=3, lw=1.4, color=COLOURS["model"], label="the model asks")
    ax.plot(*_points(s["usual_order"]["curve"], x, y), "s-", ms=3, lw=1, color=COLOURS["usual"], label="asked in the usual order")
    if truth:
        ax.plot(*_points(s["ceiling"]["curve"], x, "best"), "--", lw=1.2, color=COLOURS["ceiling"], label="ceiling: the law that drew the patients")
    ax.plot([s["never"][x]], [s["never"][y]["mean"]], "v", ms=8, color="#333333", label="never ask")
    ax.plot([s["own"][x]], [s["own"][y]["mean"]], "*", ms=11, color="#333333", label="where the model would stop")
    ax.plot([s["as_recorded"][x]], [s["as_recorded"][y]["mean"]], "D", ms=6, color="#666666", label="what was ordered, all at once")
    ax.plot([s["everything"][x]], [s["everything"][y]["mean"]], "^", ms=8, color="#333333", label="ask for everything")
    ax.axhline(s["most_common_named"]["mean"], color="#bbbbbb", lw=1, ls=":", label="always the most common diagnosis")
    ax.set_ylim(0, None)
    report_parts.legend(ax, loc="lower right")
    return report_parts.picture(figure)


def policy_table(s):
    truth = "ceiling" in s
    rows = []
    for key, label in [("never", "never ask"), ("own", "stop where the model would"), ("as_recorded", "what was ordered, all at once"),
                       ("everything", "ask for everything, all at once")]:  # fmt: skip
        p = s[key]
        rows.append([label, number(p["tests"], 1) if key != "as_recorded" else number(s["recorded_tests"], 1), number(p["cost"], 2),
                     number(p["minutes"], 0), number(p["right"]["mean"]) + interval(p["right"]["interval"]), number(p["confidence"]),
                     number(p["truly_right"]["mean"]) if truth else None, number(p["best"]["mean"]) if truth else None])  # fmt: skip
    rows.append(["always the most common diagnosis", "0.0", "0.00", "0",
                 number(s["most_common_named"]["mean"]) + interval(s["most_common_named"]["interval"]), "",
                 "" if truth else None, "" if truth else None])  # fmt: skip
    head = ["", "tests", html.escape(s["currency"]), "minutes waited", "named right", "its own estimate",
            "right, by the law" if truth else None, "best possible there" if truth else None]  # fmt: skip
    return table(head, rows)


def test_table(s):
    rows, most = [], 15
    for t in s["tests"][:most]:
        share = [number(100 * t[k], 1) + "%" if t[k] is not None else "-" for k in ("recorded", "new_when_recorded", "new_when_not")]
        rows.append([html.escape(t["name"] or t["code"]), number(t["price"], 2), number(t["minutes"], 0), *share,
                     number(100 * t["asked"], 0) + "%", number(100 * t["asked_and_recorded"], 0) + "%" if t["asked"] else "-"])  # fmt: skip
    head = ["test", "price", "minutes", "recorded in", "new diagnosis when recorded", "new diagnosis when not", "model asked for it in",
            "of these, recorded"]  # fmt: skip
    return table(head, rows) + (f"<p>The {most} that are recorded most often, of {len(s['tests'])} tests.</p>" if len(s["tests"]) > most else "")


def shown(gain):
    """Whether these patients show that tests change what is named right."""
    return bool(gain["interval"] and (gain["interval"][0] > 0 or gain["interval"][1] < 0))


def section(s):
    c, gain = s["counts"], s["gain_of_everything"]
    told = shown(gain)
    ceiling = ""
    if "ceiling" in s:
        k = s["ceiling"]
        ceiling = (
            "<p>These patients are synthetic, and the law that drew them is known. The dashed line is that law asking and naming: given the "
            f"same results nobody can be right more often. It goes from {number(k['never']['best']['mean'])} with nothing asked to "
            f"{number(k['everything']['best']['mean'])} with everything: that is all these tests can add here. The pictures and the column "
            "&ldquo;right, by the law&rdquo; count each name with the chance that the law gives it, which is less noisy than what happened.</p>"
        )
    unfit = f"<p>At {s['unfit']} steps none of the simulated courses fitted the answers; the judgement before them stood.</p>" if s["unfit"] else ""
    return (
        "<h2>Asking test by test</h2>"
        f"<p>{s['encounters']} visits of as many held-out patients in which at least one new diagnosis was recorded after a test "
        f"({number(s['new_diagnoses'], 1)} on average). The model is told the record up to the first test of the visit. It may then ask for one "
        "test after the other: it is told the recorded result, or that there is none, and pays for it either way. At some point it names one "
        "diagnosis that the record does not have; it is right when that is among those recorded in this visit. A name is harder than it sounds: "
        "any diagnosis of the vocabulary may be the one.</p>"
        f'<div><img alt="right diagnoses against price" src="{draw_curve(s, "cost", "price of the tests, " + s["currency"])}"> '
        f'<img alt="right diagnoses against time" src="{draw_curve(s, "minutes", "time waited, minutes")}"></div>'
        + policy_table(s)
        + f"<p>Asking for everything instead of nothing changes the share named right by {gain['mean']:+.3f}{interval(gain['interval'])}"
        + (". " if told else ": no difference that these patients can show. ")
        + "Its own estimate is how often it expects to be right. It would stop where it holds its name likelier to be right than the next test to have been recorded. Each point of a curve is a degree of certainty at which one stops asking. Tests asked one by one are waited for one by one; all at "
        "once, only the slowest counts. Prices and waiting times are those of scripts/tasks/test_prices.json, a convention to be replaced by "
        "your own.</p>" + ceiling + unfit + "<h3>Which tests are recorded is no accident</h3>"
        f"<p>A result can be revealed only if somebody ordered the test. Of {c['encounters']:.0f} visits with a test (of {c['visits']:.0f} in all), "
        f"{number(100 * c['with_new'] / c['encounters'], 1)}% hold a new diagnosis. Where the two shares in the middle differ, being ordered "
        f"already says something, and &ldquo;not recorded&rdquo; is no normal result. Until it named one, {number(100 * s['asked_in_vain'], 0)}% of "
        "what the model asked for had not been recorded. How it would do if every test were really taken cannot be told from such records.</p>"
        + test_table(s)
    )


def summary(s):
    """The first thing to read."""

    def told(key, words):
        p = s[key]
        price = f" for {number(p['cost'], 2)} {html.escape(s['currency'])}" if p["cost"] else ""
        return f"{100 * p['right']['mean']:.0f}% {words}{price}"

    text = (
        f"<ul><li>In {s['encounters']} visits the model named a diagnosis that was new and was recorded: {told('never', 'without any test')}, "
        f"{told('own', 'stopping where it would')}, {told('everything', 'with every test there is')}. Naming the most common diagnosis always: "
        f"{100 * s['most_common_named']['mean']:.0f}%.</li>"
    )
    gain = s["gain_of_everything"]
    if shown(gain):
        box = [100 * x for x in gain["interval"]]
        text += f"<li>Every test instead of none changed that by {100 * gain['mean']:+.0f} in 100 visits ({box[0]:+.0f} to {box[1]:+.0f}).</li>"
    else:
        text += "<li>That asking for tests changes how often it is right cannot be shown by so few visits.</li>"
    if "ceiling" in s:
        k = s["ceiling"]
        text += (f"<li>The best possible, by the law that drew these patients: {100 * k['never']['best']['mean']:.0f}% without and "
                 f"{100 * k['everything']['best']['mean']:.0f}% with every test.</li>")  # fmt: skip
    return text + "<li>Only tests that somebody ordered have results here: this is no trial of a way to order tests.</li></ul>"
