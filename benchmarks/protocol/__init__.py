"""The quality benchmark's parts: tasks, encoders, methods, probes' bookkeeping, goals, tables."""
