"""page_browser.py URL [KEY] [--picture FILE] - the page of `ehr-infer serve` in a real browser, as a person would use it: a
made-up record, a question, its answer, a pasted record and pasted nonsense.  Prints a line a check; exit 1 if any failed."""
import argparse, json, re, shutil, urllib.request
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import Select, WebDriverWait

from serve_ask import check, finish

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url")
parser.add_argument("key", nargs="?", default="")
parser.add_argument("--picture")
args = parser.parse_args()


def ask(path, body):
    headers = {"Authorization": "Bearer " + args.key} if args.key else {}
    return json.load(urllib.request.urlopen(urllib.request.Request(args.url + path, json.dumps(body).encode(), headers), timeout=60))


options = webdriver.ChromeOptions()
for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1120,900"):
    options.add_argument(flag)
options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
try:
    def one(selector):
        return browser.find_element(By.CSS_SELECTOR, selector)

    def count(selector):
        return len(browser.find_elements(By.CSS_SELECTOR, selector))

    def idle():
        return int(one("body").get_attribute("data-idle") or 0)

    def click(selector):
        """Clicks and waits until what the click began is over."""
        before = idle()
        one(selector).click()
        WebDriverWait(browser, 120).until(lambda _: idle() > before)

    def paste(text):
        one("#text").clear()
        browser.execute_script("document.getElementById('text').value = arguments[0]", text)
        click("#show")

    browser.get(args.url + "/")
    WebDriverWait(browser, 60).until(lambda _: idle() > 0)
    cells = browser.execute_script("return parse(arguments[0]).events", 'code,time,value,unit\n"A, ""b"";c" ,2024-01-01 08:00, "7.2","x,y"\nB;;"<5,000"\nC')
    check("a CSV's quotes keep what stands in them together", cells == [
        {"code": 'A, "b";c', "time": "2024-01-01T08:00", "value": 7.2, "unit": "x,y"}, {"code": "B", "value": "<5,000"}, {"code": "C"}], cells)
    cells = browser.execute_script("return parse(arguments[0]).events", 'A\t\t7.2\t%\nB;2024-01-01;7,2;%\nC;;<0,5;\nD;;5,000;\nE,2024-01-01,,%')
    check("an empty cell of a table with tabs is one, a decimal comma is no end of a cell", cells == [{"code": "A", "value": 7.2, "unit": "%"},
          {"code": "B", "time": "2024-01-01", "value": 7.2, "unit": "%"}, {"code": "C", "value": "<0.5"}, {"code": "D", "value": "5,000"},
          {"code": "E", "time": "2024-01-01", "unit": "%"}], cells)  # fmt: skip
    before = idle()
    browser.execute_script("document.getElementById('file').dispatchEvent(new Event('change'))")
    WebDriverWait(browser, 60).until(lambda _: idle() > before)
    check("a choice of a file that is taken back is none", not one("#wrong").is_displayed(), one("#wrong").text)
    check("it says what it is not", "Not a medical device" in one(".notice").text, one("body").text)
    if args.key:
        check("without a key there is a gate and nothing else", one("#gate").is_displayed() and not one("#main").is_displayed())
        one("#key").send_keys("wrong")
        click("#enter")
        check("a wrong key is told", "key" in one("#wrong").text and not one("#main").is_displayed(), one("#wrong").text)
        one("#key").clear()
        one("#key").send_keys(args.key)
        click("#enter")
    check("it names the model", re.search(r"Model ehr-[0-9a-f]{12}", one("#model").text) and one("#main").is_displayed(), one("#model").text)

    click(".example[data-seed='2']")
    marks = count("#timeline circle, #timeline rect")
    check("a made-up record is drawn", one("#record").is_displayed() and marks > 5, (marks, one("#wrong").text))
    check("and marks say what they are", "the record" in browser.execute_script("return document.querySelector('#timeline title').textContent"))
    info = json.load(urllib.request.urlopen(urllib.request.Request(args.url + "/info", headers={"Authorization": "Bearer " + args.key} if args.key else {}), timeout=60))
    n = min(32, info["limits"]["samples"])
    offered = [int(o.get_attribute("value")) for o in Select(one("#samples")).options]
    check("as many futures as the server simulates are offered", offered == ([32, 64, 256] if n == 32 else [n]), offered)
    Select(one("#horizon")).select_by_value("90")
    Select(one("#samples")).select_by_visible_text(str(n))
    click("#ask")
    check("the question is answered", one("#answer").is_displayed(), one("#wrong").text)
    patient = json.loads(one("#text").get_attribute("value"))
    code = one("#outcome").get_attribute("value").split(" \u2014 ")[0]
    want = ask("/v1/risk", {"patient": patient, "samples": n, "seed": 1, "estimator": "scope",
                            "outcomes": [{"codes": [code], "horizon": "90d"}]})["outcomes"][0]
    digits = 1 if want["risk"] < 0.0995 else 0
    check("with the number of the same question asked outside", one("#risk").text == f"{100 * want['risk']:.{digits}f}%", (one("#risk").text, want))
    maps = info["recalibration"]
    if maps:
        m = maps[0]
        mapped = ask("/v1/risk", {"patient": patient, "samples": n, "seed": 1, "estimator": m["estimator"],
                                  "outcomes": [{"name": m["name"], "codes": m["codes"], "horizon": "90d"}]})["outcomes"][0]["recalibrated"]["risk"]
        said = f"{100 * mapped:.{1 if mapped < 0.0995 else 0}f}%"
        check("and as this server's map has it, fitted with other codes for the same tokens", said in one("#recalibrated").text and m["name"] in one("#recalibrated").text, (one("#recalibrated").text, said))
    check("what was recalibrated is told where there is a map", one("#recalibrated").is_displayed() == bool(maps))
    check("a curve with its band", count("#curve path") == 2 and "NaN" not in one("#curve").get_attribute("innerHTML"))
    check("twelve futures", browser.execute_script("return [...document.querySelectorAll('#futures text')].filter(t => t.textContent.startsWith('future')).length") == min(12, info["limits"]["samples"]))
    lines = browser.execute_script("return [...document.querySelectorAll('#futures line.lane')].map(l => Number(l.getAttribute('x2')))")
    if info["limits"]["max_tokens"] < 100:
        check("lines of futures that were cut off end there, and it is said", min(lines) < max(lines) and "cut off" in one("#futures").text
              and "cut off" in one("#risk_words").text, (lines, one("#futures").text, one("#risk_words").text))
    check("events that moved it, by size", count("#moved tr") > 0 and re.search("(raises|lowers) by", one("#moved").text), one("#moved").text)
    check("results are told by their bounds, not by the number of their level", not re.search("=Q\\d", one("#moved").text), one("#moved").text)
    browser.execute_script("document.querySelector('#timeline circle').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    browser.execute_script("window.dispatchEvent(new Event('resize'))")
    check("what is touched is read out, and stays when only the height changes", "the record" in one("#timeline p").text, one("#timeline").text)

    # What comes late must not stand under what was asked for later.
    slow = "if (!window.quick) { window.quick = window.fetch; window.fetch = (p, o) => p === '/v1/risk' ? new Promise(r => setTimeout(r, 1500)).then(() => window.quick(p, o)) : window.quick(p, o); }"
    browser.execute_script(slow)
    before = idle()
    one("#ask").click()
    Select(one("#horizon")).select_by_value("30")
    WebDriverWait(browser, 120).until(lambda _: idle() > before)
    check("an answer says the time that it is of, whatever is chosen meanwhile", "within 90 days" in one("#risk_words").text, one("#risk_words").text)
    before = idle()
    one("#ask").click()
    one(".example[data-seed='3']").click()
    WebDriverWait(browser, 120).until(lambda _: idle() > before + 1)
    check("an answer about one record is not shown under another", one("#record").is_displayed() and not one("#answer").is_displayed(), one("#risk_words").text)
    browser.execute_script("window.fetch = (p, o) => p === '/v1/score' ? Promise.resolve(new Response('{}', {status: 503})) : window.quick(p, o)")
    click("#show")
    check("a record that could not be read leaves none to ask about", "503" in one("#wrong").text and not one("#record").is_displayed(), one("#wrong").text)
    browser.execute_script("window.fetch = window.quick")
    click("#show")
    click("#ask")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True})
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script("return document.querySelector('#curve svg').viewBox.baseVal.width") < 391)
    fits = browser.execute_script("return [document.documentElement.scrollWidth, Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))]")
    check("on a phone nothing is wider than the screen, and pictures can be read", fits[0] <= 390 and fits[1] > 10,
          (fits, browser.execute_script("return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 391).map(e => e.tagName + ' ' + e.id + ' ' + e.textContent.slice(0, 40))")))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    if args.picture:
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1120, height + 150)
        browser.save_screenshot(args.picture)

    paste("code,time,value,unit\nSEX//F\nRACE//WHITE\nMEDS_BIRTH,1950-02-03\nICD10CM//I10,2024-01-01\nLOINC//4548-4,2024-01-01T08:00,7.2,%\nICD10CM//ZZ9,2024-02-01")
    check("pasted lines are read, the unknown code is told", "1 of 3 have no token" in one("#told").text, (one("#told").text, one("#wrong").text))
    check("the old answer is gone", not one("#answer").is_displayed())
    one("#outcome").clear()
    one("#outcome").send_keys("heart failure", Keys.ESCAPE)
    click("#ask")
    check("an outcome is found by its name", one("#answer").is_displayed() and "failure" in one("#risk_words").text.lower(), (one("#risk_words").text, one("#wrong").text))
    one("#outcome").clear()
    one("#outcome").send_keys("no such thing <img src=x onerror=alert(1)>", Keys.ESCAPE)  # closes the list of codes
    click("#ask")
    check("one that is not is told, as text", "no code" in one("#wrong").text and count("#wrong img") == 0, one("#wrong").text)
    for text, words in (("{", "no JSON"), ("code,time", "no event"), ("ICD10CM//I10,yesterday", "takes a date"), ("LOINC//4548-4,2024-01-01,7,2,%", "more than code,time,value,unit"), ("<script>alert(1)</script>,2024-01-01", "")):
        paste(text)
        check(f"pasted {text!r}: told or read, never run", words in one("#wrong").text, one("#wrong").text)
    log = [e for e in browser.get_log("browser") if e["level"] == "SEVERE" and not re.search("status of 4(00|01)|favicon", e["message"])]
    check("nothing was refused or broke in the browser", not log, log)
    seen = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
    check("nothing was loaded from elsewhere", seen and all(s.startswith(args.url) for s in seen), seen)
finally:
    browser.quit()
finish()
