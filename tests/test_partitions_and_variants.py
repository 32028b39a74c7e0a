"""Keys and variants: what may name a partition, and what `encoders.toml` may say."""

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.spatial.sensors import mirror_section_keys
from assets.spatial.variants import VariantError, load_variants
from defs import encoders_file
from partitions import SECTIONS, TARGET_SECTIONS, PartitionKeyError, add_section_key, section_keys, valid_key


@pytest.mark.parametrize("key", ["151673", "demo_a", "Br8100.s1-left", "_x", "a" * 64])
def test_usual_names_are_keys(key):
    assert valid_key(key) == key


@pytest.mark.parametrize(
    "key", ["", "a|b", "a,b", "a/b", "..", "a..b", ".hidden", "-flag", "a b", "é", "a" * 65, "a\n", "data.parquet"]
)
def test_a_key_that_would_break_folders_pairs_or_commands_is_refused(key):
    with pytest.raises(PartitionKeyError, match="cannot name a partition"):
        valid_key(key)


@given(st.text(max_size=70))
def test_a_valid_key_is_one_plain_folder_name(text):
    try:
        valid_key(text)
    except PartitionKeyError:
        return
    assert "/" not in text and text not in (".", "..") and len(text) <= 64 and text.isascii() and text.strip() == text


def test_a_section_key_is_added_to_both_dimensions():
    with dg.DagsterInstance.ephemeral() as instance:
        add_section_key(instance, "a")
        assert section_keys(instance) == ["a"] == list(instance.get_dynamic_partitions(TARGET_SECTIONS.name))


def test_a_key_added_in_the_ui_is_mirrored_and_a_bad_one_named():
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(SECTIONS.name, ["good", "bad,key"])
        context = dg.build_sensor_context(instance=instance)
        result = mirror_section_keys(context)
        assert [request.partition_keys for request in result.dynamic_partitions_requests] == [["good"]]
        instance.add_dynamic_partitions(TARGET_SECTIONS.name, ["good"])
        assert "bad,key" in mirror_section_keys(context).skip_message


def test_the_shipped_variants_load():
    variants = {variant.name: variant for variant in load_variants(encoders_file())}
    assert variants["partition_bank"].seeds == (0, 1, 2)
    assert variants["pca_smooth"].cohort == ("151673", "151676")


GOOD = '[cohort]\nc = ["a", "b"]\n[encoder.pca]\nmethod = "pca"\ncohort = "c"\n'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("not toml =", "TOML"),
        (GOOD.replace('cohort = "c"', 'cohort = "d"'), "cohort = 'd'"),
        (GOOD.replace('"a"', '"a|b"'), "cannot name a partition"),
        (GOOD + "sedes = [1]\n", "sedes"),
        (GOOD + "seeds = []\n", "seeds"),
        (GOOD + "seeds = [1, 1]\n", "seeds"),
        (GOOD + "max_refits = -1\n", "max_refits"),
        (GOOD + "params = 3\n", "params"),
        (GOOD.replace("encoder.pca", "encoder.controls"), "taken"),
        (GOOD.replace("encoder.pca", 'encoder."P/C"'), "lower-case"),
        (GOOD.replace('method = "pca"\n', ""), "method"),
    ],
)
def test_a_variant_file_that_cannot_be_used_says_where_and_why(tmp_path, text, found):
    path = tmp_path / "encoders.toml"
    path.write_text(text)
    with pytest.raises((VariantError, PartitionKeyError), match=found):
        load_variants(path)
