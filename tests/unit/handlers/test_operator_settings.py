"""Settings of the operator: from the environment, with a sentence for each that is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
from autoresearch_operator.operator_settings import InvalidSettings, OperatorSettings


def test_every_setting_has_a_default_and_says_why() -> None:
    settings = OperatorSettings.from_env({})
    assert settings.workers == 4
    assert settings.served == (settings.lease_namespace,)
    for name, field in OperatorSettings.model_fields.items():
        assert field.description, name
        assert "efault" in field.description or "Apart" in field.description, name


def test_variables_are_read_and_empty_ones_are_unset() -> None:
    environ = {
        "AUTORESEARCH_NAMESPACES": "a, b,a",
        "AUTORESEARCH_LOG_LEVEL": "DEBUG",
        "AUTORESEARCH_NODES_READABLE": "true",
        "AUTORESEARCH_RESYNC_SECONDS": " 60 ",
        "AUTORESEARCH_WORKERS": "",
        "AUTORESEARCH_CACHE": "/not/ours",
    }
    settings = OperatorSettings.from_env(environ)
    assert settings.served == ("a", "b")
    assert (settings.log_level, settings.nodes_readable, settings.resync_seconds) == ("debug", True, 60.0)
    assert OperatorSettings.from_env({"AUTORESEARCH_NAMESPACES": "*"}).served is None


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("WORKERS", "many", 'is "many", want an integer; unset, it is 4'),
        ("WORKERS", "0", 'is "0", want a number greater than or equal to 1; unset, it is 4'),
        ("NAMESPACES", "lab,Big", 'is "Big", want a name of a-z, 0-9 and -; it may be left unset'),
        ("LOG_LEVEL", "loud", 'is "loud", want debug, info, warning or error; unset, it is info'),
        ("NODES_READABLE", "perhaps", 'is "perhaps", want true or false; unset, it is false'),
        ("HTTP_PORT", "99999", 'is "99999", want a number less than or equal to 65535; unset, it is 8080'),
    ],
)
def test_a_wrong_value_is_a_sentence(variable: str, value: str, sentence: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        OperatorSettings.from_env({f"AUTORESEARCH_{variable}": value})
    assert str(caught.value) == f"AUTORESEARCH_{variable} {sentence}"


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidSettings) as caught:
        OperatorSettings.from_env({"AUTORESEARCH_GIT_BASE_URL": "http://me:hunter2@git"})
    assert "no password" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        OperatorSettings.from_env({"AUTORESEARCH_WORKERS": "x", "AUTORESEARCH_RESYNC_SECONDS": "y"})
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(InvalidSettings, match="HTTP_PORT and GIT_PORT are both 80: give them two ports"):
        OperatorSettings.from_env({"AUTORESEARCH_HTTP_PORT": "80", "AUTORESEARCH_GIT_PORT": "80"})


def test_a_laptops_settings_need_no_pydantic() -> None:
    program = "import sys, autoresearch_operator.settings; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    from autoresearch_operator import settings

    assert settings.OperatorSettings is OperatorSettings
