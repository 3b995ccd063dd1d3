"""What README and docs say exists: paths, links, make targets; commands and Python blocks run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_run import ROOT, launch_environment

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "BENCHMARKS.md")),
        *(ROOT / name for name in ("recipes/README.md", "data/mini/README.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)
FOLDERS = r"(?:train|decode|data|recipes|docs|tests|benchmarks|\.ci)"
PATH = re.compile(rf"(?<![\w/.<-]){FOLDERS}/(?:[\w.*-]+/)*(?:[\w*-]+\.[a-z]+(?:\.gz)?)?(?![\w<*])")
RECIPE = re.compile(r"`((?:\w+/)*[\w*]+\.yaml)`")
NO_RECIPES = {"mine.yaml", "recipe.yaml"}  # the reader's own, and a file of a run
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TINY = "sft.max_steps=4 task.eval_limit=4 decode.choose.limit=4 decode.bases.0.tune_reference=false"


def blocks(page: str, language: str, heading: str = "") -> list[str]:
    """The code blocks of a language, in the section that `heading` begins."""
    text = (ROOT / page).read_text("utf-8")
    section = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0] if heading else text
    return [code for found, code in BLOCK.findall(section) if found == language]


def missing_paths(text: str) -> list[str]:
    """The project's paths in a text that lead nowhere."""
    found = {match.group().rstrip(".") for match in PATH.finditer(text)}
    return sorted(path for path in found if not list(ROOT.glob(path)))


def missing_recipes(text: str) -> list[str]:
    """Recipes and accelerate files that a text names by their place below `recipes/`."""
    found = {name for name in RECIPE.findall(text) if name.islower() and name not in NO_RECIPES}
    names = {name.removeprefix("recipes/") for name in found}
    return sorted(name for name in names if not list((ROOT / "recipes").rglob(name)))


def missing_targets(text: str) -> set[str]:
    """Targets of make that a text names and the Makefile does not have."""
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    return set(re.findall(r"(?:`|^)make ([a-z]+)\b", text, re.MULTILINE)) - known


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page that lead to no file or no heading."""
    broken = []
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    text = page.read_text("utf-8")
    assert missing_paths(text) == []
    assert missing_recipes(text) == []
    assert missing_targets(text) == set()
    assert broken_links(page, text) == []


def test_what_does_not_exist_is_found():
    text = "`decode/no.py`, `train/none/`, `mini/no.yaml`, `make tea`; [a](no.md) [b](#no)"
    assert missing_paths(text) == ["decode/no.py", "train/none/"]
    assert missing_paths("`decode/<system>/*`, `train/step`, `train/*.py`, runs/data/x.py") == []
    assert missing_recipes(text) == ["mini/no.yaml"]
    assert missing_targets(text) == {"tea"}
    assert broken_links(ROOT / "README.md", text) == ["no.md", "#no"]


def test_every_page_is_in_the_list_of_pages():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"^\| \[.*?\]\(([^/)]+)\)", index, re.MULTILINE))


def test_every_recipe_is_in_the_list_of_recipes():
    table = (ROOT / "recipes" / "README.md").read_text("utf-8")
    files = [*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "recipes" / "mini").glob("*.yaml")]
    names = {str(path.relative_to(ROOT / "recipes")) for path in files}
    assert names <= set(RECIPE.findall(table))


def test_every_room_is_in_the_layout():
    layout = (ROOT / "docs" / "layout.md").read_text("utf-8")
    rooms = {
        f"{path.parent.relative_to(ROOT)}/"
        for folder in ("decode", "train", "data")
        for path in (ROOT / folder).glob("*/*.py")
    }
    assert rooms <= set(re.findall(r"`([\w/]+/)`", layout))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that holds the project's folders, where commands leave their runs."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("data", "decode", "recipes", "train"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(commands: str, folder: Path) -> str:
    """What commands print, run by bash as they are; the environment's `python` is this one."""
    environment = launch_environment([f"output_dir={folder / 'run'}"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env={**environment, "PATH": path, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(workplace):
    """The README's command of the demo, with few steps and rows."""
    text = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(r"`(accelerate launch train/sft\.py recipes/mini/\w+\.yaml)`", text)
    options = "--config_file recipes/accelerate/cpu.yaml"
    table = run(f"{command.replace('launch', f'launch {options}')} {TINY}", workplace)
    assert "proxy, alpha 1 " in table
    return workplace


@pytest.mark.long
@pytest.mark.parametrize("page", ["README.md", "docs/decoding.md"])
def test_python_blocks_run_after_the_demo(page, demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    (code,) = blocks(page, "python")
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.long
def test_own_data_and_models(workplace):
    """The recipe and the commands as they stand, on rows that are in no file of the project."""
    (recipe,) = blocks("README.md", "yaml", "## Your own data and models")
    (commands,) = blocks("README.md", "sh", "## Your own data and models")
    copy, train = commands.splitlines()
    run(copy, workplace)
    assert len((workplace / "questions.jsonl").read_text().splitlines()) == 200
    (workplace / "mine.yaml").write_text(recipe)
    rows = (ROOT / "data" / "mini" / "facts" / "train.jsonl").read_text().splitlines()[:150]
    facts = [json.loads(row) for row in rows]
    own = [
        {"question": f"Say in a word: {row['question']}", "answer": row["answers"][0]}
        for row in facts
    ]
    lines = "".join(json.dumps(row) + "\n" for row in own)
    (workplace / "questions.jsonl").write_text(lines)
    table = run(train, workplace)
    assert "report: runs/mine/report.md" in table
    metrics = json.loads((workplace / "runs" / "mine" / "metrics.json").read_text())
    (base,) = metrics["bases"]
    assert metrics["num_examples"] == 100
    assert base["proxy"][0]["value"] > max(metrics["expert"]["value"], base["base"]["value"])
    report = (workplace / "runs" / "mine" / "report.md").read_text()
    assert "| questions | 150 | 100 exact | 1 | 50 |" in report
