"""The OCI layout that holds the lab's images, and the way from there into a node without sending what the node has.

A node's containerd keeps blobs by digest: an archive that leaves out the ones it has is imported just as well. So a change of
the product's code sends a megabyte, not the Debian base.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from e2e.lab.paths import cache_dir
from e2e.lab.steps import LabError

_REF = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its short name and the reference pods use."""

    name: str
    ref: str


def folder() -> Path:
    """Where the layout lies; the first push makes it, but not the folder it lies in."""
    return cache_dir() / "images" / "layout"


def holds(ref: str) -> bool:
    """Whether the layout has this image."""
    return any(m["annotations"].get(_REF) == ref for m in _index()["manifests"])


def flatten(ref: str) -> None:
    """Rewrite an image just pushed so that its layers lie uncompressed, under the digests its configuration names.

    buildah compresses what it pushes, and skips a layer that the layout has under that digest: so a layer is compressed once,
    and no node has to decompress it.
    """
    index = _index()
    entry = next(m for m in index["manifests"] if m["annotations"].get(_REF) == ref)
    manifest = json.loads(_path(entry["digest"]).read_text())
    diffs = json.loads(_path(manifest["config"]["digest"]).read_text())["rootfs"]["diff_ids"]
    for layer, diff in zip(manifest["layers"], diffs, strict=True):
        if not _path(diff).exists():
            partial = _path(diff).with_suffix(".partial")
            with gzip.open(_path(layer["digest"])) as packed, partial.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
            partial.rename(_path(diff))
        layer.update(mediaType="application/vnd.oci.image.layer.v1.tar", digest=diff, size=_path(diff).stat().st_size)
    text = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    _path(digest).write_bytes(text)
    entry.update(digest=digest, size=len(text))
    _write_index(index)


def prune(repository: str, keep: int) -> list[str]:
    """Forget all but the newest `keep` images of a repository and the blobs nothing needs; returns the forgotten references."""
    index = _index()
    mine = [m for m in index["manifests"] if m["annotations"].get(_REF, "").rpartition(":")[0] == repository]
    old = mine[:-keep]
    index["manifests"] = [m for m in index["manifests"] if m not in old]
    _write_index(index)
    needed = {digest for m in index["manifests"] for digest in _blobs(m["digest"])}
    for blob in (folder() / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in needed:
            blob.unlink()
    return [m["annotations"][_REF] for m in old]


def send(ref: str, has: set[str], importer: Sequence[str]) -> None:
    """Stream the image, less the blobs in `has`, into the command `importer`. Raises LabError when that fails."""
    manifest = next((m for m in _index()["manifests"] if m["annotations"].get(_REF) == ref), None)
    if manifest is None:
        raise LabError(f"{ref} has not been built: run `python -m e2e.lab build`")
    named = {**manifest, "annotations": {"io.containerd.image.name": ref}}
    # the manifest and configuration always travel: they are small, and the importer starts from them
    layers = set(_layers(manifest["digest"]))
    child = subprocess.Popen(list(importer), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stderr is not None
    with contextlib.suppress(BrokenPipeError):  # the importer has ended: its status and its words say why
        _write(child.stdin, named, [d for d in _blobs(manifest["digest"]) if d not in layers or d not in has])
    error = child.stderr.read().decode(errors="replace")
    if child.wait() != 0:
        raise LabError(f"{ref} could not be imported: {error.strip()[-1000:]}")


def _write(out: IO[bytes], manifest: dict[str, Any], digests: list[str]) -> None:
    with tarfile.open(fileobj=out, mode="w|", bufsize=1 << 20) as tar:
        texts = {"oci-layout": {"imageLayoutVersion": "1.0.0"}, "index.json": {"schemaVersion": 2, "manifests": [manifest]}}
        for name, content in texts.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for digest in digests:
            tar.add(_path(digest), f"blobs/{digest.replace(':', '/')}")
    out.close()


def _index() -> dict[str, Any]:
    try:
        return dict(json.loads((folder() / "index.json").read_text()))
    except FileNotFoundError:
        return {"schemaVersion": 2, "manifests": []}


def _write_index(index: dict[str, Any]) -> None:
    partial = folder() / "index.json.partial"
    partial.write_text(json.dumps(index))
    partial.rename(folder() / "index.json")


def _path(digest: str) -> Path:
    return folder() / "blobs" / digest.replace(":", "/")


def _layers(digest: str) -> list[str]:
    return [layer["digest"] for layer in json.loads(_path(digest).read_text())["layers"]]


def _blobs(digest: str) -> list[str]:
    return [digest, json.loads(_path(digest).read_text())["config"]["digest"], *_layers(digest)]
