"""The table of config.json's fields in SPECIFICATION.md: current, complete, and true."""

import subprocess
import sys
from pathlib import Path

import pytest

from vruntime.errors import ConfigError
from vruntime.oci.config import load_config

LIBRARY = Path(__file__).parents[2] / "scripts/lib"
sys.path.insert(0, str(LIBRARY))
import config_fields  # noqa: E402

FIELDS = config_fields.fields()
PARTS = dict(config_fields.properties(config_fields.schema.load()))


def document_with(field):
    return config_fields.document(field.keys, config_fields.samples(field.keys, PARTS[field.keys])[0])


def path_of(field):
    return config_fields.path(field.keys).partition("[]")[0].partition("{}")[0]


def test_the_table_is_current():
    check = subprocess.run([sys.executable, LIBRARY / "config_fields.py", "--check"])
    assert check.returncode == 0, "SPECIFICATION.md is behind: run scripts/config-fields"


def test_no_field_is_missing():
    assert {field.keys for field in FIELDS} == set(PARTS)
    assert len(FIELDS) > 150


@pytest.mark.parametrize("field", [field for field in FIELDS if field.treatment == "refused"], ids=path_of)
def test_what_is_said_to_be_refused_is(bundle, field):
    bundle.document = document_with(field)
    with pytest.raises(ConfigError) as caught:
        load_config(bundle.write())
    reason = field.reason.partition(";")[0]
    assert any(reason in fault for fault in caught.value.faults)


@pytest.mark.parametrize("field", [field for field in FIELDS if field.treatment == "ignored"], ids=path_of)
def test_what_is_said_to_be_ignored_is_warned_of(bundle, field):
    bundle.document = document_with(field)
    warnings = load_config(bundle.write()).warnings
    assert [warning for warning in warnings if field.reason in warning and warning.startswith(path_of(field)[:5])]


def test_a_field_that_nothing_uses_is_noticed():
    with pytest.raises(LookupError, match=r"root\.unknown is accepted, but nothing uses it"):
        config_fields.field_of(("root", "unknown"), ("a", "b"))
