"""Networks in OpenVINO's intermediate representation: made, kept, compiled and run."""

from models.ir.convert import forgo_telemetry

forgo_telemetry()  # its import reports too, from a thread
