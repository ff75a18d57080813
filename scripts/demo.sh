#!/bin/sh
# Set everything up and play the whole story on a real model. Arguments go to `weightmark demo`.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
.venv/bin/weightmark demo "$@"
