"""How many files this process may have open."""


def open_files_limit() -> int | None:
    """`ulimit -n` of this process; None where there is no such limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
