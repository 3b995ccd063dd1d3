"""Files that hold what nobody would write: the right result, or one line that says where."""

import json
import re
from pathlib import Path

import pytest

from data.row_files import is_local
from data.rows import read_rows
from data.scoring.scored_file import score_file
from data.training.mixture import weighted
from decode.jobs.files import append_row, write_rows
from decode.jobs.files import read_rows as read_own_rows
from decode.models.model_files import CONFIG_FILES, TOKENIZER_FILES
from decode.models.model_source import ModelSource
from decode.models.sources import check_weights, load_tokenizer
from recipes.schema.recipe import RecipeError, load_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "mini" / "facts.yaml"
LAUGHS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]" for i in range(9))


def line_of(path: Path, *overrides: str) -> str:
    """The one line that a recipe is refused with."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!!binary aGVsbG8=", "line 1, column 1: could not determine a constructor for the tag"),
        ("!!set {a, b}", "could not determine a constructor for the tag"),
        ("!!python/object:os.system {}", "could not determine a constructor for the tag"),
        ("!!int abc", "line 1, column 1: found 'abc', which is no int"),
        ("!!int ''", "found '', which is no int"),
        ("!!bool maybe", "found 'maybe', which is no bool"),
        ("9" * 5000, "found a number of 5,000 digits"),
        ("9" * 900, "expected a number below 3.4e+38"),
        ("0x" + "f" * 5000, "found a number of 5,002 digits"),
        ("1e400", "found inf; expected a number below 3.4e+38"),
        ("[" * 5000 + "]" * 5000, "nested more than 50 deep"),
        ("[" * 5000, "nested more than 50 deep"),
        ("{a: " * 500 + "1" + "}" * 500, "nested more than 50 deep"),
        ("- " * 2000 + "1", "nested more than 50 deep"),
        ("&a [*a]", "nested more than 50 deep"),
        ("{[1]: 2}", "found unhashable key"),
        ('"\\ud800"', "found '\\ud800'; NUL and lone surrogates are no text"),
        ('"a\\0b"', "NUL and lone surrogates are no text"),
        ("a\ud800", "special characters are not allowed"),
        ("null", "decode.bases (override): found null; expected a list"),
        ("{a: 1}", "expected a list"),
    ],
)
def test_a_value_that_no_recipe_can_have(value, expected):
    assert expected in line_of(RECIPE, f"decode.bases={value}")


@pytest.mark.parametrize(
    "override",
    ["decode.bases." + "9" * 5000 + "=1", ".".join("a" * 3000) + "=1", "\udcff=1", "mixture=null"],
)
def test_an_override_whose_key_leads_nowhere(override):
    assert line_of(RECIPE, override).startswith(f"{RECIPE}: ")


@pytest.mark.parametrize("key", ["expert.model", "decode.bases.0.model"])
def test_a_name_too_long_for_a_file(key):
    assert key in line_of(RECIPE, f"{key}=./{'a' * 5000}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"5", "a recipe is sections of `key: value`, found 5"),
        (b"\xff\xfe\x00", "not valid YAML: 'utf-8' codec can't decode"),
        (b"a: \x00", "special characters are not allowed"),
        (b"a: 1\n---\nb: 2\n", "but found another document"),
        (LAUGHS.encode(), "more than 100,000 values"),
        (b"1: 2", "a recipe is sections of `key: value`"),
    ],
)
def test_a_file_that_is_no_recipe(content, expected, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    assert expected in line_of(path)


def test_a_recipe_with_a_byte_order_mark_and_places_that_are_no_file(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + RECIPE.read_bytes())
    assert load_recipe(tmp_path / "recipe.yaml") == load_recipe(RECIPE)
    assert "found a folder" in line_of(tmp_path)
    assert "cannot be read (File name too long)" in line_of(Path("a" * 5000))
    assert "no such recipe" in line_of(Path("a\0b"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"question": ' + b"[" * 9999 + b"]" * 9999 + b"}", "nested too deeply to be read"),
        (b'{"question": ' + b"9" * 5000 + b"}", "not valid JSON (Exceeds the limit"),
        (b'{"question": "\xff"}', "not valid JSON ('utf-8' codec can't decode byte 0xff"),
        (b"5", "not a JSON object, found 5"),
        (b"[" * 900 + b"]" * 900, "not a JSON object, found [[["),
        (b'{"question": "\\ud800"}', "field 'question' holds a lone surrogate"),
        (b'{"question": "\xed\xa0\x80"}', "field 'question' holds a lone surrogate"),
        (b'{"id": "\\uDFFF"}', "field 'id' holds a lone surrogate"),
        (b'{"answers": ["a", "\\ud800"]}', "field 'answers.1' holds a lone surrogate"),
        (b'{"messages": [{"content": "\\ud800"}]}', "field 'messages.0.content' holds a lone"),
        (b'{"\\ud800": 1}', "field '\\ud800' holds a lone surrogate"),
    ],
)
def test_a_line_that_is_no_row(line, expected, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "a"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: ") as caught:
        read_rows(str(path))
    assert expected in str(caught.value)


def test_rows_that_only_look_broken(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}\n{"a": "\\\\ud800"}\n{"a": "\xed\x9f\xbf"}\n'
    )
    assert [row.fields["a"] for row in read_rows(str(path))] == ["😀", "\\ud800", "\ud7ff"]


def test_a_place_that_is_no_file_of_rows(tmp_path):
    with pytest.raises(ValueError, match="a folder without files of rows"):
        read_rows(str(tmp_path))
    assert not is_local("a" * 5000)
    with pytest.raises(ValueError, match="no such file"):
        read_rows("a" * 5000)


def test_what_a_model_wrote_is_kept_and_scored_whatever_it_is(tmp_path):
    path, rows = tmp_path / "proxy.jsonl", [{"completion": "\ud800 #### 5", "answers": ["5"]}]
    for write in (write_rows, lambda path, rows: append_row(path, rows[0])):
        write(path, rows)
        assert read_own_rows(path) == rows
        assert json.loads(path.read_text("utf-8")) == rows[0]
        assert score_file("gsm8k", str(path)).values == (1.0,)
        path.unlink()


@pytest.mark.parametrize("weight", [1e12, 1e300])
def test_a_weight_that_fills_the_memory(weight):
    with pytest.raises(ValueError, match=r"more than 100,000,000 of 2 rows"):
        weighted("ab", weight, 1)
    for wrong in ("0", "-1", ".nan", "null", "[1]"):
        row = "{task: facts, weight: " + wrong + "}"
        assert "mixture.0.weight" in line_of(RECIPE, f"mixture=[{row}]")


NO_MAPPINGS = (b"[]", b"null", b"5", b"", b'{"a"', b"\0\0\0", b"\xff\xfe", b"[" * 9999)


def look_at(source: ModelSource) -> None:
    """What every entry does before weights load."""
    load_tokenizer(source)
    check_weights(source)


@pytest.mark.parametrize("name", [*CONFIG_FILES, *TOKENIZER_FILES])
def test_a_file_of_a_model_that_is_no_mapping(name, save_model):
    source = ModelSource(save_model("small", 1))
    file = Path(source.name) / name
    for content in NO_MAPPINGS:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
            look_at(source)
        assert "\n" not in str(caught.value)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=re.escape(f"{file}: Is a directory")):
        look_at(source)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "hidden_size", "32"),
        ("config.json", "hidden_size", None),
        ("config.json", "num_attention_heads", 7),
        ("config.json", "model_type", "nope"),
        ("config.json", "model_type", []),
        ("config.json", "rope_parameters", 5),
        ("generation_config.json", "eos_token_id", "<eos>"),
        ("generation_config.json", "eos_token_id", [256, "<eos>"]),
        ("generation_config.json", "max_new_tokens", -1),
        ("generation_config.json", "max_new_tokens", []),
        ("tokenizer.json", "model", 5),
        ("tokenizer.json", "added_tokens", 5),
        ("tokenizer_config.json", "added_tokens_decoder", 5),
        ("tokenizer_config.json", "model_max_length", [None]),
        ("tokenizer_config.json", "model_max_length", "512"),
    ],
)
def test_a_key_of_a_model_with_a_value_of_the_wrong_type(name, key, value, save_model):
    source = ModelSource(save_model("small", 1))
    file = Path(source.name) / name
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(ValueError, match=r"json") as caught:
        look_at(source)
    line = str(caught.value)
    assert line.startswith(str(Path(source.name)) + "/")
    assert name in line
    assert "\n" not in line


@pytest.mark.parametrize("content", [*NO_MAPPINGS, b'{"peft_type": "NOPE"}', b'{"peft_type": []}'])
def test_a_file_of_an_adapter_that_is_no_mapping(content, save_model, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(content)
    source = ModelSource(str(folder), untuned=ModelSource(save_model("small", 1)))
    with pytest.raises(ValueError, match=re.escape(str(folder / "adapter_config.json"))) as caught:
        check_weights(source)
    assert "\n" not in str(caught.value)
