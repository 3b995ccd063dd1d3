"""The server's page: what it may load, and in a browser what a user sees of it."""

import json
import re
import shutil
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch

import httpx
import pytest
from support.tiny_run import ROOT
from test_serve import TEMPLATE, by_name, running, server, slow, systems, until  # noqa: F401
from test_token_page import Document

from decode import Alpha
from decode.serving.gate import Access
from decode.serving.page import PAGE

TEXT = PAGE.read_text("utf-8")
SCRIPT = re.search(r"<script>(.*?)</script>", TEXT, re.DOTALL)[1]


def test_a_browser_holds_the_page_to_its_server(server):  # noqa: F811
    response = server.get("/")
    assert response.status_code == 200 and response.text == TEXT
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; ")
    )
    assert policy.pop("style-src").startswith("'sha256-")
    assert policy.pop("script-src").startswith("'sha256-")
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_the_page_is_one_file_and_never_reads_text_as_html():
    assert re.findall(r"https?://[^'\"]+", TEXT) == ["http://www.w3.org/2000/svg"]  # a name
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "Storage"):
        assert word not in TEXT
    document = Document(TEXT)
    assert not document.open
    assert [name for _, name, _ in document.attributes if name.startswith("on")] == []
    assert [name for _, name, _ in document.attributes if name == "style"] == []  # CSP bars it


def test_every_element_that_the_script_asks_for_is_there():
    ids = [value for _, name, value in Document(TEXT).attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'element\("([^"]+)"\)', SCRIPT)) <= set(ids)
    labelled = re.findall(r'<label for="([^"]+)"', TEXT)
    assert set(labelled) <= set(ids)


def test_its_colours_are_the_token_pages():
    theirs = (ROOT / "decode/analysis/token_page.html").read_text("utf-8")
    for name in ("--up", "--down", "--strongest"):
        of = re.compile(rf"{name}: [^;]+;")
        assert of.findall(TEXT) == of.findall(theirs) != []
    function = re.compile(r"function colour.*?\n}", re.DOTALL)
    assert function.findall(TEXT) == function.findall(theirs) != []


def test_pages_are_installed_with_the_package():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = found["tool"]["setuptools"]["package-data"]["*"]
    pages = list((ROOT / "decode").rglob("*.html"))
    assert PAGE in pages and all(any(fnmatch(p.name, one) for one in patterns) for p in pages)


def test_the_page_needs_no_key_but_a_known_host(systems):  # noqa: F811
    with (
        running(systems, Access("127.0.0.1", "s3cret")) as (address, _),
        httpx.Client(base_url=address) as client,
    ):
        assert client.get("/").text == TEXT
        assert client.get("/v1/models").status_code == 401
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
        assert client.get("/", headers={"Origin": "https://evil.example"}).status_code == 403
        for path in ("//", "/?x=1/v1/models", "/v1/../", "/v1"):
            assert client.get(path).text in (TEXT, client.get("/v1/models").text), path


def test_the_list_of_models_says_who_reads_chats(server, systems):  # noqa: F811
    cards = server.get("/v1/models").json()["data"]
    assert [card["has_chat_template"] for card in cards] == [False] * 4
    tokenizer = by_name(systems, "base").tokenizers.base
    tokenizer.chat_template = TEMPLATE
    try:
        with running(systems) as (address, _):
            cards = httpx.get(f"{address}/v1/models").json()["data"]
    finally:
        tokenizer.chat_template = None
    assert {card["id"] for card in cards if card["has_chat_template"]} >= {"base"}


# In a browser


@pytest.fixture(scope="module")
def browser():
    how = "needs pip install playwright, and Debian's chromium"
    playwright = pytest.importorskip("playwright.sync_api", reason=how)
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip(how)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def page_at(browser, address, width=1280, **settings):
    """The server's page, and what the console said of it."""
    context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
    page, said = context.new_page(), []
    page.set_default_timeout(20_000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(str(address))
    try:
        yield page, said
    finally:
        context.close()


def ask(page, prompt="Q: é", limit=8, wait="done", **fields):
    page.locator(".column.proxy").wait_for()
    for name, value in {"prompt": prompt, "limit": str(limit), **fields}.items():
        page.fill(f"#{name}", value)
    page.press("#prompt", "Control+Enter")
    page.locator("#status", has_text=wait).wait_for()


def text_of(page, name):
    return page.locator(f".column.{name} .text").text_content()


def visible(text):
    return text.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥")


def proxy_text(page):
    return "".join(page.locator(".token:not(.end)").all_text_contents())


@pytest.mark.long
def test_alpha_moves_the_proxy_from_the_base_and_back(browser, server):  # noqa: F811
    with page_at(browser, server.base_url) as (page, said):
        ask(page, limit=24, temperature="0.9")
        names = ("base", "expert", "proxy", "tuned")
        assert page.locator(".column h2").all_text_contents() == [
            "Base", "Expert", "Proxy-tuned", "Directly tuned",
        ]  # fmt: skip
        assert all(text_of(page, name) for name in names)
        assert page.locator(".column.base footer").text_content() == "24 tokens, cut at the limit"
        base, expert, steered = text_of(page, "base"), text_of(page, "expert"), proxy_text(page)
        assert page.locator(".token").count() == 24 and steered != visible(base)
        page.fill("#alpha", "0")
        page.locator("#status", has_text="running").wait_for()
        page.locator("#status", has_text="done").wait_for()
        assert page.locator("#scale").text_content() == "0"
        assert proxy_text(page) == visible(base)  # drawn with the base's seed
        assert (text_of(page, "base"), text_of(page, "expert")) == (base, expert)
        assert page.locator(".token.changed").count() == 0
        page.fill("#alpha", "1")
        page.locator("#status", has_text="running").wait_for()
        page.locator("#status", has_text="done").wait_for()
        assert proxy_text(page) == steered
        assert said == []


@pytest.mark.long
def test_candidates_are_shown_on_hover_and_on_focus(browser, server):  # noqa: F811
    with page_at(browser, server.base_url) as (page, said):
        ask(page)
        summary, tables = page.locator("#summary"), page.locator("#candidates table")
        assert "Point at a token" in summary.text_content() and tables.count() == 0
        page.locator(".token").nth(2).hover()
        heads = page.locator("caption").all_text_contents()
        assert [head.split(":")[0] for head in heads] == ["base", "expert", "anti-expert", "proxy"]
        assert page.locator("#candidates tr").count() == 4 * 5
        assert "points" in summary.text_content() and "nats" in summary.text_content()
        hovered = summary.text_content()
        page.locator(".token").first.focus()
        assert summary.text_content() != hovered
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert summary.text_content() == hovered
        assert page.locator(".token[tabindex='0']").count() == 1  # one stop of the Tab key
        page.select_option("#measure", "logprob")
        assert page.locator("#low").text_content() == "-5 nats or less"
        assert said == []


@pytest.mark.long
def test_stopping_frees_the_slots(browser, systems, monkeypatch):  # noqa: F811
    slow(monkeypatch, 0.05)
    with running(systems) as (address, loop), page_at(browser, address) as (page, said):
        for stop in (lambda: page.keyboard.press("Escape"), lambda: page.click("#stop")):
            ask(page, limit=390, wait="running")
            until(lambda: all(loop.num_rows(name) == 1 for name in loop.engines))
            page.locator(".column.base .text", has_text=re.compile(".")).wait_for()
            stop()
            page.locator("#status", has_text="stopped").wait_for()
            until(lambda: not any(loop.num_rows(name) for name in loop.engines))
            rows = re.findall(
                r'^proxytune_rows\{model="\w+"\} (.+)', httpx.get(f"{address}/metrics").text, re.M
            )
            assert rows == ["0"] * 4
            assert page.locator(".column footer").all_text_contents() == ["stopped"] * 4
            assert page.locator("#stop").is_disabled()
        assert said == []


@pytest.mark.long
def test_what_the_server_refuses_is_one_line(browser, systems, monkeypatch):  # noqa: F811
    slow(monkeypatch, 0.02)
    with (
        running(systems, batch_size=1, max_waiting=0) as (address, loop),
        page_at(browser, address) as (first, _),
        page_at(browser, address) as (second, _),
    ):
        ask(second, prompt="Q" * 40, limit=390, wait="failed")
        told = second.locator("#error").text_content()
        assert told.startswith("the prompt has 40 tokens; with max_tokens 390")
        ask(first, limit=390, wait="running")
        until(lambda: all(loop.num_rows(name) for name in loop.engines))
        ask(second, wait="failed")
        assert second.locator("#error").text_content() == (
            "as many requests wait as may; try again"
        )
        assert second.locator("#error").is_visible()
        first.keyboard.press("Escape")
        until(lambda: not any(loop.num_rows(name) for name in loop.engines))
        ask(second, limit=2)
        assert second.locator("#error").is_hidden()


@pytest.mark.long
def test_a_key_is_asked_for_and_kept_in_the_page_alone(browser, systems):  # noqa: F811
    access = Access("127.0.0.1", "s3cret-é漢")
    with running(systems, access) as (address, _), page_at(browser, address) as (page, _):
        page.locator("#unlock").wait_for()
        assert page.locator("#error").is_hidden() and page.locator(".column").count() == 0
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.locator("#error", has_text="missing or wrong API key").wait_for()
        page.fill("#key", access.api_key)
        page.press("#key", "Enter")
        ask(page)
        assert page.locator("#unlock").is_hidden() and page.locator("#error").is_hidden()
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        page.reload()
        page.locator("#unlock").wait_for()
        assert page.input_value("#key") == ""


@pytest.mark.long
def test_chats_can_be_sent_where_a_model_reads_them(browser, server, systems):  # noqa: F811
    with page_at(browser, server.base_url) as (page, _):
        page.locator(".column.proxy").wait_for()
        assert page.locator("#kinds").is_hidden()
    proxy = by_name(systems, "proxy").tokenizers
    proxy.expert.chat_template = TEMPLATE
    try:
        with running(systems) as (address, _), page_at(browser, address) as (page, said):
            page.check("#chat")
            ask(page)
            assert page.locator(".token").count() == 8
            page.locator(".token").first.hover()
            assert page.locator("#candidates table").count() == 4
            assert said == []
    finally:
        proxy.expert.chat_template = None


@pytest.mark.long
@pytest.mark.parametrize(("alpha", "shown"), [(0.3, "0.3"), (0.125, "0.125"), (-3.5, "-3.5")])
def test_the_slider_begins_at_the_runs_alpha(browser, systems, alpha, shown):  # noqa: F811
    proxy = replace(by_name(systems, "proxy"), alpha=Alpha(alpha))
    asked = []
    with running([proxy]) as (address, _), page_at(browser, address) as (page, said):
        page.on("request", lambda request: asked.append(request.post_data_json))
        ask(page)
        assert page.locator("#scale").text_content() == shown
        assert asked[-1]["alpha"] == alpha
        assert page.locator(".column").count() == 1 and said == []


@pytest.mark.long
def test_without_a_proxy_there_is_nothing_to_steer(browser, systems):  # noqa: F811
    served = [by_name(systems, name) for name in ("base", "tuned")]
    with running(served) as (address, _), page_at(browser, address) as (page, said):
        page.locator(".column.tuned").wait_for()
        assert page.locator("#steer").is_hidden() and page.locator("#explained").is_hidden()
        page.fill("#prompt", "x")
        page.click("#run")
        page.locator("#status", has_text="done").wait_for()
        assert text_of(page, "base") and text_of(page, "tuned") and said == []


@pytest.mark.long
def test_it_fits_a_phone_and_follows_the_systems_wishes(browser, server):  # noqa: F811
    found = {}
    for scheme in ("light", "dark"):
        settings = {"color_scheme": scheme, "reduced_motion": "reduce"}
        with page_at(browser, server.base_url, 390, **settings) as (page, said):
            ask(page, prompt="W" * 200, limit=40)
            page.locator(".token").first.focus()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            lefts = [one.bounding_box()["x"] for one in page.locator(".column").all()]
            assert len(set(lefts)) == 1  # stacked
            style = "getComputedStyle(document.querySelector('{}')).{}"
            assert page.evaluate(style.format(".token", "transitionDuration")) == "0s"
            names = ("backgroundColor", "color")
            found[scheme] = [page.evaluate(style.format("body", name)) for name in names]
            assert said == []
    assert found["light"][0] == found["dark"][0].replace("22, 22, 22", "255, 255, 255")
    assert found["light"][1] != found["dark"][1]


@pytest.mark.long
def test_what_a_model_writes_stays_text(browser, server):  # noqa: F811
    hostile = ["<img src=x onerror=alert(1)>", "__proto__", "7", "\n"]
    top = {"7": -3.0, "__proto__": -1.0, "<b>": -2.0}
    scores = {"token_logprobs": [-1.0] * 4, "top_logprobs": [top] * 4}
    logprobs = {**scores, "tokens": hostile, "text_offset": [0, 28, 37, 38]}
    logprobs["by_role"] = dict.fromkeys(("base", "expert", "antiexpert"), scores)
    first = {"text": "".join(hostile), "finish_reason": None}
    last = {"text": "", "finish_reason": "length", "logprobs": logprobs}
    events = [{"choices": [first]}, {"choices": [last]}]
    events += [{"choices": [], "usage": {"completion_tokens": 4}}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    with page_at(browser, server.base_url) as (page, said):
        page.route("**/v1/completions", lambda route: route.fulfill(body=body))
        ask(page)
        assert page.locator(".proxy .token").all_text_contents() == [*hostile[:3], "↵"]
        page.locator(".proxy .token").nth(1).hover()
        rows = page.locator("#candidates table").first.locator("tr")
        texts = [row.locator("td").first.text_content() for row in rows.all()]
        assert texts == ["“__proto__”", "“<b>”", "“7”"]  # likeliest first
        assert page.locator("#candidates tr.emitted").count() == 4
        assert page.locator("img, b").count() == 0 and said == []


@pytest.mark.long
@pytest.mark.parametrize("end", ["", 'data: {"error": {"message": "out of memory"}}\n\n'])
def test_an_answer_that_breaks_off_is_told(browser, server, end):  # noqa: F811
    begun = 'data: {"choices": [{"index": 0, "text": "abc", "finish_reason": null}]}\n\n'
    with page_at(browser, server.base_url) as (page, said):
        page.route("**/v1/completions", lambda route: route.fulfill(body=begun + end))
        ask(page, wait="failed")
        told = "out of memory" if end else "the answer broke off"
        assert page.locator("#error").text_content() == told
        assert text_of(page, "base") == "abc" and said == []
