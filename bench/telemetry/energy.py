"""Energy of processor packages from RAPL, where the kernel lets us read it."""

from __future__ import annotations

from pathlib import Path

from bench.telemetry.gpu import Unavailable

_POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """Energy counters of the processor packages. Raises Unavailable when there are none, or they may not be read.

    They count everything on the package, whoever used it, and wrap at `max_energy_range_uj`: `joules` must be called
    more often than that (minutes at hundreds of watts).
    """

    def __init__(self, root: Path = _POWERCAP) -> None:
        zones = sorted(path for path in root.glob("*rapl:*") if path.name.count(":") == 1)
        self._zones = [zone for zone in zones if self._name(zone).startswith("package")]
        if not self._zones:
            raise Unavailable(f"RAPL: no processor package below {root}")
        self._total_uj = 0
        self._ranges = [self._read(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [self._read(zone / "energy_uj") for zone in self._zones]

    def joules(self) -> float:
        """Joules of all packages since this object was made. Raises Unavailable when a counter cannot be read."""
        now = [self._read(zone / "energy_uj") for zone in self._zones]
        for index, (value, last) in enumerate(zip(now, self._last, strict=True)):
            step = value - last
            self._total_uj += step if step >= 0 else step + self._ranges[index]
        self._last = now
        return self._total_uj / 1e6

    @staticmethod
    def _name(zone: Path) -> str:
        try:
            return (zone / "name").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    @staticmethod
    def _read(path: Path) -> int:
        try:
            return int(path.read_text(encoding="ascii"))
        except OSError as error:
            raise Unavailable(f"RAPL: {path}: {(error.strerror or str(error)).lower()}") from None
        except ValueError:
            raise Unavailable(f"RAPL: {path}: holds no number") from None
