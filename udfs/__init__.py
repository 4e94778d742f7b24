"""Logic: values in, values out; no Flink, no clock, no I/O."""
