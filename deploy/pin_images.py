#!/usr/bin/env python3
"""Write the digests behind the tags of base images into the Dockerfiles: `make pin-images`.

Asks the registries of the images through `docker buildx imagetools`, which needs no daemon. A
digest names one content for ever, while a tag is what its owner makes of it; run it anew to take
what has been mended in a base image since.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
BASE = re.compile(r"(?m)^(ARG \w+_IMAGE=)([\w./-]+:[\w.-]+)(@sha256:[0-9a-f]{64})?$")
"""An image with its tag, and perhaps a digest."""


def main() -> int:
    """Pin every base image of every Dockerfile."""
    for path in sorted(DEPLOY.glob("Dockerfile.*")):
        text = path.read_text()
        fresh = pinned(text, digest_of)
        path.write_text(fresh)
        print(f"{path.name}: {'changed' if fresh != text else 'as it was'}")
    return 0


def pinned(text: str, digest_of: Callable[[str], str]) -> str:
    """A Dockerfile whose base images have the digests that their tags lead to now."""
    return BASE.sub(lambda found: f"{found[1]}{found[2]}@{digest_of(found[2])}", text)


def digest_of(image: str) -> str:
    """What the registry has under this tag, for all processors together."""
    command = ["docker", "buildx", "imagetools", "inspect", image]
    command += ["--format", "{{.Manifest.Digest}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    digest = done.stdout.strip()
    if done.returncode != 0 or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sys.exit(f"no digest of {image}: {done.stderr.strip() or digest or 'nothing said'}")
    return digest


if __name__ == "__main__":
    sys.exit(main())
