"""The recording survives whatever ends the process: what was written is read back, what was torn is left out."""

from __future__ import annotations

from pathlib import Path

from bench.load import segments


def test_records_come_back_in_order_over_segments(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "worker0", segment_bytes=2 * segments.READ_BYTES)
    written = []
    for number in range(40):
        payload = bytes([number]) * (1000 * number)
        writer.data(number, segments.PAIR.pack(number, 5), payload)
        writer.mark(segments.END, number, 77, payload=b"complete")
        written.append((number, payload))
    # Not closed: as after a kill.
    records = list(segments.read_records(tmp_path, "worker0"))
    assert [(slot, payload) for tag, slot, _, _, payload in records if tag == segments.DATA] == written
    assert [payload for tag, *_, payload in records if tag == segments.END] == [b"complete"] * 40
    assert len(list(tmp_path.glob("*.seg"))) > 5
    writer.close()


def test_reads_appended_at_once_are_records_like_others(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "worker0", segment_bytes=2 * segments.READ_BYTES)
    written = [(number, bytes([number]) * 300) for number in range(250)] * 4
    for first in range(0, len(written), 30):
        parts: list[bytes] = []
        for number, payload in written[first : first + 30]:
            parts += segments.pack_header(segments.DATA, number, 9, segments.NO_STAMP, len(payload)), payload
        writer.append(parts)
        writer.mark(segments.CLOCK, 0, 1)
    records = list(segments.read_records(tmp_path, "worker0"))
    assert [(slot, payload) for tag, slot, _, _, payload in records if tag == segments.DATA] == written
    assert len(list(tmp_path.glob("*.seg"))) >= 3
    writer.close()


def test_a_payload_without_its_header_does_not_exist(tmp_path: Path) -> None:
    writer = segments.SegmentWriter(tmp_path, "worker0")
    writer.mark(segments.START, 1, 2)
    torn = writer.position + segments.HEADER.size
    writer.map[torn : torn + 5] = b"hello"
    assert [tag for tag, *_ in segments.read_records(tmp_path, "worker0")] == [segments.START]
    writer.close()
