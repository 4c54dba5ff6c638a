"""scripts/images on machines that are not like this one: what it passes on, and what it says when it cannot build."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_images", ROOT / "scripts" / "build_images.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_sites_index_settings_reach_the_build_as_secrets(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip, bundle = tmp_path / "pip.conf", tmp_path / "site.crt"
    pip.write_text("[global]\nindex-url = https://mirror.example/simple\ncert = /home/somebody/ca.pem\n")
    bundle.write_text("the site's bundle")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(pip))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.example/it's")
    monkeypatch.setenv("PIP_FIND_LINKS", "/home/somebody/wheels")
    with script.site_secrets() as secrets:
        assert secrets["ca.crt"].read_text() == "the site's bundle"
        # Paths of this machine mean nothing inside the build.
        assert secrets["pip.conf"].read_text() == "[global]\nindex-url = https://mirror.example/simple\n"
        assert "UV_DEFAULT_INDEX='https://mirror.example/it'\"'\"'s'\n" in secrets["environment"].read_text()
        assert "somebody" not in secrets["environment"].read_text()
        # Readable by nobody else while the build runs, and gone after it.
        assert secrets["ca.crt"].parent.stat().st_mode & 0o077 == 0
    assert not secrets["ca.crt"].exists()


def test_a_machine_without_an_engine_is_told_what_to_install(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert script.main(["--only", "operator"]) == 1
    assert "none of buildah, podman, docker works here: install one of them" in capsys.readouterr().err


def test_an_engine_that_is_installed_and_does_not_answer_is_passed_over(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in (("buildah", 1), ("docker", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(script, "ENGINES", ("buildah", "docker"))
    assert script.find_engine(None, None).name == "docker"
