"""What Shoal talks about: frozen dataclasses and enums, standard library only.

Units: milliseconds for latencies (`_ms`), seconds for durations (`_seconds`) and instants (seconds since the epoch,
passed in),
requests per second for rates, bytes for memory, tokens for lengths, MHz for clocks.
"""
