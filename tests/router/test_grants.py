"""Which grants a router knows: keys from a folder as a kubelet mounts them, read again when they change."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelfleet.core.grants import GRANT_HEADER, LIFETIME, Grant, GrantError, sign_grant
from modelfleet.router.grants import GrantReader

NOW = 1_000_000.0


def a_grant(expires: int = int(NOW) + LIFETIME) -> Grant:
    return Grant("shop/t", "r", "reader", "c", "anonymous", "pool:shop/small", expires, 5)


def mount(folder: Path, version: str, **keys: bytes) -> None:
    """As a kubelet does: the files are links into a hidden folder, and that one is a link that moves."""
    (folder / f"..{version}").mkdir(parents=True)
    for name, key in keys.items():
        (folder / f"..{version}" / name).write_bytes(key)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data").unlink(missing_ok=True)
    (folder / "..data").symlink_to(f"..{version}")


def shown(reader: GrantReader, key: bytes, grant: Grant | None = None) -> object:
    return reader({GRANT_HEADER: sign_grant(grant or a_grant(), key)})


def test_keys_are_read_once_a_second_and_every_one_of_them_opens(tmp_path: Path) -> None:
    ticks = [0.0]
    reader = GrantReader(str(tmp_path), wall=lambda: NOW, clock=lambda: ticks[0])
    mount(tmp_path, "1", a=b"first\n", b=b"second", empty=b"")
    assert [shown(reader, key) for key in (b"first", b"second")] == [a_grant(), a_grant()]
    mount(tmp_path, "2", a=b"third", b=b"second", empty=b"")
    assert isinstance(shown(reader, b"third"), GrantError)
    ticks[0] = 1.0
    assert shown(reader, b"third") == a_grant()
    assert isinstance(shown(reader, b"first"), GrantError)
    shutil.rmtree(tmp_path)
    ticks[0] = 2.0
    assert shown(reader, b"third") == a_grant(), "a folder that cannot be read leaves the last keys"


def test_no_header_is_nothing_and_a_bad_one_repeats_nothing_of_itself(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"k")
    reader = GrantReader(str(tmp_path), wall=lambda: NOW)
    assert reader({"x-app": "1"}) is None
    assert isinstance(shown(reader, b"k", a_grant(int(NOW))), GrantError)
    for header in ("", "v1..", "v1.secretpayload.c2ln", "x" * 5000):
        told = reader({GRANT_HEADER: header})
        assert isinstance(told, GrantError)
        assert not header or header not in told.message
    assert isinstance(shown(GrantReader(), b"k"), GrantError), "without keys no grant is known"
