"""The token page: one whole document, whatever the models wrote."""

import json
import re
from html.parser import HTMLParser

import pytest
from test_shifts import token

from decode.analysis.analysis_report import analysis_text
from decode.analysis.token_page import embedded_json, token_page

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script> -->",
    "\" onload='x' & &lt; &amp;",
    "{{facts}} {{data}} $title ${t} \\1 \\u003c",
    "\u2028\u2029 \U0001f600 \u0627\u0644 \u202e \ufffd",
    "]]> `${1}` \x00",
]
VOID = {"meta", "input", "br", "link"}


class Document(HTMLParser):
    """Tags in order, text by tag, and whether every tag is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.text = [], [], {}
        self.attributes = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def rows(texts=HOSTILE):
    return [
        {
            "id": f"row {text}",
            "prompt": text,
            "completion": text,
            "answers": [text],
            "score": 0.5,
            "tokens": [
                {**token(text, 0.25, changed=True), "top": {
                    role: [[3, text, -0.1], [len(text), "other", -2.0]]
                    for role in ("base", "expert", "antiexpert", "proxy")
                }},
                token("<eos>", end=True),
            ],
        }
        for text in texts
    ]  # fmt: skip


def test_hostile_text_stays_text():
    plain = Document(token_page("title", "facts", rows(["harmless"])))
    hostile = Document(token_page(HOSTILE[0], HOSTILE[3], rows()))
    assert hostile.tags == plain.tags  # nothing a model wrote became a tag
    assert hostile.open == plain.open == []
    assert hostile.text["title"] == [HOSTILE[0]]
    assert hostile.text["h1"] == [HOSTILE[0]]
    (facts,) = (text for text in hostile.text["p"] if "{{facts}}" in text)
    assert facts == HOSTILE[3]
    data = json.loads(hostile.text["script"][0])
    assert [row["prompt"] for row in data["rows"]] == HOSTILE
    first = data["rows"][0]["tokens"][0]
    assert data["texts"][first[0]] == HOSTILE[0]
    base = first[9][0]
    assert [data["texts"][text] for text, _, _ in base] == [HOSTILE[0], "other"]
    assert [is_emitted for _, _, is_emitted in base] == [0, 1]


def test_it_needs_nothing_else():
    page = token_page("title", "facts", rows(["harmless"]))
    document = Document(page)
    loads = ("src", "href", "data", "action", "srcset")
    assert [a for a in document.attributes if a[1] in loads] == []
    assert [a for a in document.attributes if a[1].startswith("on")] == []
    assert not re.search(r"url\(|@import|https?://|innerHTML|insertAdjacentHTML|eval\(", page)
    assert "{{" not in page
    assert ("html", "lang", "en") in document.attributes
    named = {value for _, name, value in document.attributes if name == "id"}
    used = set(re.findall(r'element\("(\w+)"\)', page)) | {"data"}
    assert used == named, "the script and the page name the same elements"


@pytest.mark.parametrize("text", HOSTILE)
def test_embedded_json_is_json_without_tags(text):
    found = embedded_json({"a": text})
    assert json.loads(found) == {"a": text}
    assert found.isascii()
    assert not set("<>&") & set(found)


def test_the_report_survives_hostile_tokens():
    kinds = [
        {
            "id": 1, "text": text, "is_end": False, "count": 5, "mean_delta_probability": 0.5,
            "mean_delta_logprob": 1.0, "top1_changed": 1.0, "most_often_after": "a|`b``",
        }
        for text in ("|", "`", "``x", "\n")
    ]  # fmt: skip
    summary = {
        "num_rows": 3, "num_tokens": 5, "emitted_is_top1": 0.5,
        "changed_to_expert_top1": 0.75,
        "rule": None,
        "top1_changed": {"value": 0.5, "ci95": [0.25, 0.75]}, "mean_delta_probability": 0.5,
        "top1_changed_by_position": [], "mean_total_variation": 0.5, "most_shifted": kinds,
        "equations": {"num_equations": 0},
    }  # fmt: skip
    report = analysis_text(
        {
            "name": "n", "task": "t",
             "num_predictions": 10, "is_greedy": True, "systems": {"p": summary},
            "trade_offs": [], "sweeps": {},
        }
    )  # fmt: skip
    lines = report.splitlines()
    listed = [line for line in lines if "+0.500 | 100.0" in line]
    assert len(listed) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in listed} == {6}
    assert "At 75.0% of those" in report
    assert "the last 7 of 10 completions" in report
    assert "Only 50.0% of the tokens are the proxy's likeliest" in report
