"""What a hub's checkpoint is, from its headers alone: a checkpoint whose files have the right size and empty weights.

A file's beginning is asked for with a range; the rest is a hole, which takes no disk. So everything that reads headers
reads these files as it reads whole ones.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path

from bench.base.errors import UsageError
from bench.base.hub import asked, endpoint, not_fetched, quiet_library
from quantize.gguf_file import read_gguf
from quantize.hub import Listing, listed, wanted
from quantize.models import HubConfig

_FIRST_BYTES = 128 << 10
_MAX_HEADER_BYTES = 100 << 20
#: Beginnings of a GGUF that are tried: its vocabulary is in its header, and most take some megabytes.
_GGUF_BYTES = (8 << 20, 32 << 20, 128 << 20)
_TIMEOUT_S = 30.0


def outline(config: HubConfig, folder: Path) -> Path:
    """The checkpoint in the new `folder`: configuration whole, weights as headers and holes.

    Raises UsageError when there is no such repository, access is refused or HF_HUB_OFFLINE is set; ToolchainError when
    the hub cannot be reached.
    """
    quiet_library()
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise not_fetched(wanted(config))
    listing = listed(config)
    folder.mkdir(parents=True)
    if config.file is not None:
        return _gguf(config, listing, folder / Path(config.file).name)
    for name, size in listing.files.items():
        if name.endswith(".safetensors"):
            _safetensors(config, listing, name, folder / name)
        elif name in ("config.json", "model.safetensors.index.json"):
            (folder / name).write_bytes(_beginning(config, listing, name, _MAX_HEADER_BYTES))
        else:
            _hole(folder / name, b"", size or 0)
    return folder


def _safetensors(config: HubConfig, listing: Listing, name: str, target: Path) -> None:
    """The length of the header, the header, and a hole of the size of the weights."""
    start = _beginning(config, listing, name, _FIRST_BYTES)
    if len(start) >= 8:
        (length,) = struct.unpack("<Q", start[:8])
        if 8 + length > len(start):
            start = _beginning(config, listing, name, min(8 + length, _MAX_HEADER_BYTES))
    _hole(target, start, _size(config, listing.files, name))


def _gguf(config: HubConfig, listing: Listing, target: Path) -> Path:
    assert config.file is not None
    size = _size(config, listing.files, config.file)
    for count in _GGUF_BYTES:
        start = _beginning(config, listing, config.file, count)
        _hole(target, start, size)
        if len(start) < count:
            read_gguf(target)
            return target
        # A header that is cut off goes on in the hole, as empty names and numbers.
        with contextlib.suppress(UsageError):
            if read_gguf(target).data_start <= count:
                return target
    raise UsageError(f"{config.file} of {config.repo}: its header is longer than {count >> 20} MiB; fetch it once")


def _size(config: HubConfig, files: Mapping[str, int | None], name: str) -> int:
    size = files[name]
    if size is None:
        raise UsageError(f"{config.repo}@{config.revision}: the hub does not say how large {name} is; fetch it once")
    return size


def _hole(target: Path, start: bytes, size: int) -> None:
    with target.open("wb") as stream:
        stream.write(start[:size])
        stream.truncate(size)


def _beginning(config: HubConfig, listing: Listing, name: str, count: int) -> bytes:
    """The first `count` bytes of a file, or all of a smaller one; a hub that knows no ranges is cut off."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    def request() -> bytes:
        url = hf_hub_url(config.repo, name, revision=listing.commit, endpoint=endpoint())
        headers = {**build_hf_headers(), "Range": f"bytes=0-{count - 1}"}
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            found = bytearray()
            for piece in answer.iter_bytes():
                found += piece
                if len(found) >= count:
                    break
            return bytes(found[:count])

    return asked(request, wanted(config))
