"""A place that cannot be written is named before weights load; a full disk loses nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from decode.jobs.disk import check_writable, full_line
from decode.jobs.files import append_row, read_rows, write_json

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("/dev/null", "Not a directory"),
        ("/dev/null/below", "Not a directory"),
        ("/proc/run", "No such file"),
        ("dangling", "No such file"),
        ("dangling/below", "No such file"),
        ("loop", "symbolic links"),
        ("x" * 300, "File name too long"),
        ("new/" + "y" * 300 + "/run", "File name too long"),
        ("nul\0byte", "null byte"),
    ],
)
def test_a_folder_that_cannot_be(places, folder, reason):
    before = sorted(places.rglob("*"))
    with pytest.raises(ValueError, match=f"^output_dir: .*{reason}") as error:
        check_writable("output_dir", Path(folder) / "recipe.yaml")
    assert "\n" not in str(error.value)
    assert "\0" not in str(error.value)
    assert sorted(places.rglob("*")) == before


@pytest.mark.parametrize("folder", ["new", "new/er", ".", "", "a/../b", "with spaces/ü"])
def test_a_folder_that_can_be_and_is_not_made(places, folder):
    before = sorted(places.rglob("*"))
    check_writable("output_dir", Path(folder) / "recipe.yaml")
    assert sorted(places.rglob("*")) == before


def test_an_output_that_is_a_folder(places):
    with pytest.raises(ValueError, match=r"^--json: .*Is a directory"):
        check_writable("--json", places)
    check_writable("--json", places / "file")
    assert (places / "file").read_text() == "kept"


def test_no_rights(places, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkdtemp", refused)  # root may write anywhere
    with pytest.raises(ValueError, match=r"^output_dir: 'x/y' cannot be written \(Permission"):
        check_writable("output_dir", Path("x/y"))


def test_what_a_full_disk_looks_like():
    def raised(error: BaseException, cause: BaseException | None = None) -> str | None:
        error.__cause__ = cause
        return full_line(error)

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/a.jsonl")
    assert "full at runs/x/a.jsonl ([Errno 28]" in (raised(full) or "")
    assert raised(RuntimeError("saving"), full)
    assert raised(OSError(errno.EDQUOT, "quota"))
    assert raised(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5"))
    assert raised(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert raised(OSError(errno.ENOENT, "no such file")) is None
    assert raised(RuntimeError("CUDA out of memory")) is None


LIMITED = """
import resource, sys
from pathlib import Path
from decode.jobs.files import append_row, write_json
from decode.stage.command import entry
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
@entry()
def main():
    folder = Path(sys.argv[1])
    for number in range(100):
        append_row(folder / "rows.jsonl", {"number": number, "text": "x" * 90})
        write_json(folder / "all.json", ["x" * 90] * number)
main()
"""


def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: the disk is full")
    assert "start the same command again" in line
    assert "Traceback" not in result.stderr
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert len(rows) >= 20
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "all.json"}
    append_row(tmp_path / "rows.jsonl", {"number": len(rows)})
    write_json(tmp_path / "all.json", [])
    assert len(read_rows(tmp_path / "rows.jsonl")) == len(rows) + 1
