"""A model as a file for another runtime, and the comparison that proves it."""

from fullyconv.exporting.exported import Exported, export
from fullyconv.exporting.parity import Parity

__all__ = ["Exported", "Parity", "export"]
