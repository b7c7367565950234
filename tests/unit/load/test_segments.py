"""The recording survives whatever ends the process: what was committed is read back, what was torn is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import segments


def test_records_come_back_in_order_over_segments(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "worker0", segment_bytes=100_000)
    written = []
    for number in range(40):
        payload = bytes([number]) * (1000 * number)
        writer.data(number, segments.PAIR.pack(number, 5), payload)
        header = segments.pack_header(segments.DATA, number, 6, segments.NO_STAMP, 3)
        writer.append([header, b"abc", header, b"def"])
        writer.mark(segments.END, number, 77, payload=b"complete")
        writer.commit()
        written += [(number, payload), (number, b"abc"), (number, b"def")]
    # Not closed: as after a kill.
    records = list(segments.read_records(tmp_path, "worker0"))
    assert [(slot, payload) for tag, slot, _, _, payload in records if tag == segments.DATA] == written
    assert [payload for tag, *_, payload in records if tag == segments.END] == [b"complete"] * 40
    assert len(list(tmp_path.glob("*.seg"))) > 5
    writer.close()


@pytest.mark.parametrize("cut", [1, 20, 33, 40])
def test_a_torn_record_does_not_exist(tmp_path: Path, cut: int) -> None:
    writer = segments.SegmentWriter(tmp_path, "worker0")
    writer.mark(segments.START, 1, 2)
    writer.mark(segments.DATA, 1, 3, payload=b"whole")
    writer.mark(segments.DATA, 1, 3, payload=b"12345678")
    writer.close()
    (path,) = segments.segment_paths(tmp_path, "worker0")
    path.write_bytes(path.read_bytes()[:-cut])
    assert [payload for *_, payload in segments.read_records(tmp_path, "worker0")] == [b"", b"whole"]


def test_a_full_disk_is_told_and_nothing_is_written_twice(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "worker0")
    (path,) = segments.segment_paths(tmp_path, "worker0")
    writer.mark(segments.START, 1, 2)
    writer.commit()
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    with full.open("wb") as device:
        descriptor, writer._descriptor = writer._descriptor, device.fileno()
        writer.mark(segments.START, 2, 2)
        with pytest.raises(OSError, match="No space"):
            writer.commit()
        writer._descriptor = descriptor
    writer.close()
    assert [slot for _, slot, *_ in segments.read_records(tmp_path, "worker0")] == [1]
    assert path.stat().st_size == segments.HEADER.size


def test_a_segment_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        segments.SegmentWriter(tmp_path, "worker0", segment_bytes=1 << 60)
    assert list(tmp_path.iterdir()) == []
