"""A package index of our own: tiny wheels in a folder, which is all that pip sees in these tests."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import pytest


class TinyIndex:
    """Makes wheels and the locks that pin them."""

    def __init__(self, wheels: Path, configuration: Path) -> None:
        self.wheels = wheels
        self.locks = configuration / "toolchain" / "locks"
        self.configuration = configuration
        for folder in (wheels, self.locks):
            folder.mkdir(parents=True)

    def wheel(
        self, name: str, version: str = "1.0", files: dict[str, str] | None = None, requires: str | None = None
    ) -> str:
        """Write a wheel of `name`; returns its SHA-256."""
        asked = "" if requires is None else f"Requires-Dist: {requires}\n"
        info = f"{name}-{version}.dist-info"
        content = {
            **(files or {f"{name}.py": f"VERSION = {version!r}\n"}),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:main\n",
        }
        record = [f"{path},{self._digest(text)},{len(text.encode())}" for path, text in content.items()]
        path = self.wheels / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
            for member, text in content.items():
                archive.writestr(zipfile.ZipInfo(member), text)  # without a time: the same content, the same hash
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def lock(self, file: str, requirement: str, digest: str) -> str:
        """Write a lock of one requirement; returns its name."""
        (self.locks / file).write_text(f"{requirement} --hash=sha256:{digest}\n")
        return file

    @staticmethod
    def _digest(text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"sha256={digest}"


@pytest.fixture
def tiny_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyIndex:
    index = TinyIndex(tmp_path / "wheels", tmp_path / "conf")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.wheels))
    monkeypatch.setenv("QUANTBENCH_CONFIG_DIR", str(index.configuration))
    return index
