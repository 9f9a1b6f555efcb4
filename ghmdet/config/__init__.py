"""From a command line to one Config; errors name their key. Needs no torch."""
