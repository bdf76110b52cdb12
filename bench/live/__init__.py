"""Live runs: real processes at both ends of a shaped link, asked over HTTP as users do."""
